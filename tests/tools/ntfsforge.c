// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfsforge - plants deterministic situations on an NTFS image, for tests
 *
 *	ntfsforge IMAGE VERB ARGUMENTS… [KEY=VALUE…]
 *
 * IMAGE is a regular file or a device that is mounted nowhere; root is not needed for a file.
 * Nothing is printed on success by the verbs that write. Exit code 1 for every error.
 *
 * The volume is opened with NTFS_MNT_FORENSIC but without NTFS_MNT_RDONLY: read-write, and
 * libntfs-3g neither looks at hiberfil.sys and $LogFile nor resets the latter. So more can be
 * forged onto a volume that was made to look hibernated before.
 */
#include <stdarg.h>

#include "forge.h"

static char library_said[512];

/* Keeps the last complaint of libntfs-3g for die_errno(), instead of printing it at once. */
static int keep_complaint(const char *function, const char *file, int line, u32 level, void *data,
			  const char *format, va_list args)
{
	int length;

	(void)function, (void)file, (void)line, (void)data;
	if (!(level & (NTFS_LOG_LEVEL_ERROR | NTFS_LOG_LEVEL_PERROR | NTFS_LOG_LEVEL_CRITICAL)))
		return 0;
	length = vsnprintf(library_said, sizeof(library_said), format, args);
	library_said[strcspn(library_said, "\n")] = '\0';
	return length;
}

void die(const char *format, ...)
{
	va_list args;

	fputs("ntfsforge: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(EXIT_FAILURE);
}

void die_errno(const char *format, ...)
{
	const int error = errno;
	va_list args;

	fputs("ntfsforge: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s", strerror(error));
	if (*library_said)
		fprintf(stderr, " (libntfs-3g: %s)", library_said);
	fputc('\n', stderr);
	exit(EXIT_FAILURE);
}

void *forge_alloc(size_t bytes)
{
	void *memory = calloc(1, bytes ? bytes : 1);

	if (!memory)
		die("no memory for %zu bytes", bytes);
	return memory;
}

static int suffix_shift(const char *suffix)
{
	static const char letters[] = "KMGT";
	const char *found;

	if (!*suffix)
		return 0;
	found = strchr(letters, *suffix);
	return found && !suffix[1] ? 10 * (int)(found - letters + 1) : -1;
}

s64 parse_number(const char *text, const char *what)
{
	unsigned long long value;
	char *end;
	int shift;

	errno = 0;
	value = strtoull(text, &end, 0);
	shift = suffix_shift(end);
	if (errno || end == text || *text == '-' || shift < 0 || value > (u64)INT64_MAX >> shift)
		die("%s: \"%s\" is not a number (suffixes: K M G T)", what, text);
	return value << shift;
}

u32 parse_hex(const char *text, const char *what)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 16);
	if (errno || end == text || *end || *text == '-' || value > UINT32_MAX)
		die("%s: \"%s\" is not a hexadecimal number of up to 32 bits", what, text);
	return value;
}

const char *option(const struct options *opts, const char *key)
{
	const size_t length = strlen(key);

	for (int i = 0; i < opts->count; i++)
		if (!strncmp(opts->word[i], key, length) && opts->word[i][length] == '=')
			return opts->word[i] + length + 1;
	return NULL;
}

int choose(const char *text, const char *what, const char *const *words)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(text, words[i]))
			return i;
	die("%s: unknown word \"%s\"", what, text);
}

s64 number_option(const struct options *opts, const char *key, s64 fallback)
{
	const char *text = option(opts, key);

	return text ? parse_number(text, key) : fallback;
}

int word_option(const struct options *opts, const char *key, const char *const *words)
{
	const char *text = option(opts, key);

	return text ? choose(text, key, words) : 0;
}

enum access { NO_VOLUME, READ_ONLY, READ_WRITE };

/* Positional arguments: at least MIN, at most MAX; what follows must be KEY=VALUE. */
struct verb {
	const char *name;
	int min, max;
	enum access access;
	verb_fn *run;
	const char *usage;
};

#define STREAM_OPTIONS                                                          \
	"[runs=N] [gap=G] [from=LCN] [order=forward|reverse|shuffle] [seed=S] " \
	"[fill=none|zero|pattern|stdin] [init=BYTES]"

static const struct verb verbs[] = {
	/* healthy files */
	{ "mkdir", 1, 1, READ_WRITE, verb_mkdir, "PATH" },
	{ "file", 2, 2, READ_WRITE, verb_file, "PATH SIZE " STREAM_OPTIONS },
	{ "many", 2, 2, READ_WRITE, verb_many, "PATH COUNT" },
	{ "stream", 3, 3, READ_WRITE, verb_stream, "PATH NAME SIZE " STREAM_OPTIONS },
	{ "onlystream", 3, 3, READ_WRITE, verb_onlystream, "PATH NAME SIZE " STREAM_OPTIONS },
	{ "slack", 2, 2, READ_WRITE, verb_slack, "PATH CLUSTERS" },
	{ "move", 1, 1, READ_WRITE, verb_move,
	  "PATH[:STREAM] [runs=N] [gap=G] [from=LCN] [order=forward|reverse|shuffle] [seed=S]" },
	{ "link", 2, 2, READ_WRITE, verb_link, "PATH NEWPATH" },
	{ "remove", 1, 1, READ_WRITE, verb_remove, "PATH" },
	{ "empty", 1, 1, READ_WRITE, verb_empty, "PATH" },
	{ "resident", 2, 2, READ_WRITE, verb_resident, "PATH BYTES" },
	/* files of special kinds */
	{ "sparse", 2, 2, READ_WRITE, verb_sparse, "PATH SIZE" },
	{ "compressed", 2, 2, READ_WRITE, verb_compressed, "PATH SIZE" },
	{ "encrypted", 1, 1, READ_WRITE, verb_encrypted, "PATH" },
	{ "reparse", 2, 3, READ_WRITE, verb_reparse, "PATH TAG_HEX [DATA_HEX]" },
	{ "attrs", 2, 2, READ_WRITE, verb_attrs, "PATH HEX" },
	{ "mtime", 2, 2, READ_WRITE, verb_mtime, "PATH SECONDS" },
	/* states of the volume */
	{ "hiberfil", 1, 3, READ_WRITE, verb_hiberfil,
	  "[NAME] hibr|HIBR|wake|WAKE|rstr|RSTR|zero|HEX [SIZE]" },
	{ "logfile", 2, 2, READ_WRITE, verb_logfile,
	  "1.1|2.0 clean|inuse|reset [walk=whole|broken] "
	  "[record=REDO,UNDO,INDEX,LCN[,LCN]...]..." },
	{ "dirty", 1, 1, READ_WRITE, verb_dirty, "on|off" },
	{ "bitmap", 2, 4, READ_WRITE, verb_bitmap,
	  "clear|set LCN COUNT, or: bitmap clear-file|set-file PATH [CLUSTER_INDEX [COUNT]]" },
	{ "badclus", 2, 2, READ_WRITE, verb_badclus, "LCN COUNT" },
	/* damage */
	{ "corrupt-run", 2, 2, READ_WRITE, verb_corrupt_run,
	  "PATH past-end|cross-end|lcn0|overlap|hole|short [run=N] [with=PATH]" },
	{ "orphan-extent", 1, 1, READ_WRITE, verb_orphan_extent, "PATH [extent=N]" },
	{ "wrong-base", 1, 1, READ_WRITE, verb_wrong_base, "PATH [extent=N] [with=PATH]" },
	{ "stale-extent", 1, 1, READ_WRITE, verb_stale_extent, "PATH [extent=N]" },
	{ "lost-extent", 1, 1, READ_WRITE, verb_lost_extent, "PATH [extent=N]" },
	{ "stale-seq", 1, 1, READ_WRITE, verb_stale_seq, "PATH" },
	{ "sizes", 1, 1, READ_WRITE, verb_sizes, "PATH [data=BYTES] [alloc=BYTES] [init=BYTES]" },
	{ "lsn", 2, 2, READ_WRITE, verb_lsn, "PATH LSN [extent=N]" },
	{ "mftmirr", 0, 0, READ_WRITE, verb_mftmirr, "" },
	/* questions */
	{ "runs", 1, 1, READ_ONLY, verb_runs, "PATH[:STREAM]" },
	{ "geometry", 0, 0, READ_ONLY, verb_geometry, "" },
	{ "ref", 1, 1, READ_ONLY, verb_ref, "PATH" },
	{ "pattern", 1, 1, NO_VOLUME, verb_pattern, "SIZE [seed=S]" },
};

#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static void __attribute__((noreturn)) usage(void)
{
	fputs("usage: ntfsforge IMAGE VERB ARGUMENTS\n", stderr);
	for (size_t i = 0; i < VERBS; i++)
		fprintf(stderr, "  %s %s\n", verbs[i].name, verbs[i].usage);
	exit(EXIT_FAILURE);
}

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < VERBS; i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

/* An option has a lower-case word before its "="; a path begins with a slash and never does. */
static bool is_option(const char *word)
{
	const size_t length = strspn(word, "abcdefghijklmnopqrstuvwxyz");

	return length && word[length] == '=';
}

/* The usage text is the list of the options: it has a "[KEY=" for each. */
static bool is_option_of(const struct verb *verb, const char *word)
{
	char key[32];

	if (!is_option(word))
		return false;
	snprintf(key, sizeof(key), "[%.*s=", (int)strcspn(word, "="), word);
	return strstr(verb->usage, key);
}

static void split_arguments(struct forge *forge, const struct verb *verb, int argc, char **argv)
{
	int positional = 0;

	while (positional < argc && positional < verb->max && !is_option(argv[positional]))
		positional++;
	forge->argc = positional;
	forge->argv = argv;
	forge->opts.count = argc - positional;
	forge->opts.word = argv + positional;
	for (int i = 0; i < forge->opts.count; i++)
		if (!is_option_of(verb, forge->opts.word[i]))
			die("unknown argument \"%s\"; usage: ntfsforge IMAGE %s %s",
			    forge->opts.word[i], verb->name, verb->usage);
	if (positional < verb->min)
		die("usage: ntfsforge IMAGE %s %s", verb->name, verb->usage);
}

static void volume_open(struct forge *forge, enum access access)
{
	unsigned long flags = NTFS_MNT_FORENSIC;

	if (access == READ_ONLY)
		flags |= NTFS_MNT_RDONLY;
	forge->vol = ntfs_mount(forge->image, flags);
	if (!forge->vol)
		die_errno("cannot open %s as an NTFS volume", forge->image);
	*library_said = '\0';
}

static void volume_close(struct forge *forge)
{
	if (ntfs_umount(forge->vol, FALSE))
		die_errno("cannot close %s", forge->image);
}

int main(int argc, char **argv)
{
	struct forge forge = { 0 };
	const struct verb *verb;

	ntfs_log_set_handler(keep_complaint);
	if (argc < 3)
		usage();
	verb = find_verb(argv[2]);
	if (!verb)
		usage();
	forge.image = argv[1];
	split_arguments(&forge, verb, argc - 3, argv + 3);
	if (verb->access != NO_VOLUME)
		volume_open(&forge, verb->access);
	verb->run(&forge);
	if (verb->access != NO_VOLUME)
		volume_close(&forge);
	if (fflush(stdout) || ferror(stdout))
		die_errno("cannot write to stdout");
	return EXIT_SUCCESS;
}
