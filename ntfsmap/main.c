// SPDX-License-Identifier: GPL-2.0-or-later
/* The command line. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "verb.h"

enum long_only {
	OPT_ALLOW = 256,
	OPT_JSON,
	OPT_CONCISE,
	OPT_TEST,
	OPT_DEFERRED,
	OPT_DEBUG,
	OPT_STATIC,
	OPT_PARENT,
	OPT_DATA,
	OPT_REPAIR,
	OPT_SNAPSHOT,
	OPT_OVERLAY,
	OPT_QUICK,
	OPT_PARTITIONS,
	OPT_TAB,
	OPT_DEVICE,
	OPT_INITRD
};

struct option_help {
	char key; /* in verb.options */
	const char *name;
	const char *text;
};

static const struct option_help option_helps[] = {
	{ 'r', "readonly", "  -r, --readonly      map or check for reading only: less is refused" },
	{ 'f', "format",
	  "  -f, --format FMT    raw, vhd, qcow or qcow2, instead of what the contents look like" },
	{ 'a', "allow",
	  "      --allow=WORD    lift one refusal, named by the message (ntfsmap(8), SAFETY)" },
	{ 'p', "parent", "      --parent SRC    the image's parent (its backing file) is there" },
	{ 'D', "data", "      --data SRC      the image's data file is there" },
	{ 'n', "snapshot",
	  "      --snapshot=ID   read-only, a snapshot in a qcow2, by its id or name" },
	{ 'o', "overlay",
	  "      --overlay SRC   only read the image; what is written goes there, or to tmpfs" },
	{ 's', "static",
	  "      --static        read-only, of the targets linear and zero: needs no module" },
	{ 'c', "concise",
	  "      --concise       one line for `dmsetup create --concise`, with NAME" },
	{ 'P', "partitions",
	  "      --partitions    NAME-part1 and so on too, from the partition table in the image" },
	{ 't', "test", "      --test          do all the checks, but make no device" },
	{ 'd', "deferred", "      --deferred      if it is in use, close it when that ends" },
	{ 'R', "repair",
	  "      --repair[=leaks] mend the refcounts and flags of a qcow2, or its leaks alone" },
	{ 'Q', "quick",
	  "      --quick         do not read the whole MFT for others that have its clusters" },
	{ 'T', "tab", "      --tab FILE      another one than /etc/ntfsmaptab" },
	{ 'e', "device", "      --device DEV    only what lies on that device" },
	{ 'i', "initrd",
	  "      --initrd        what the kernel command line and x-initrd.attach name" },
	{ 'j', "json", "      --json          for scripts" },
};

const struct verb verbs[] = {
	{ "table", verb_table, 1, 2, "[--concise NAME] SOURCE",
	  "print the device-mapper table (this is what `ntfsmap SOURCE` does)", "rfacpDsnQ" },
	{ "open", verb_open, 2, 2, "SOURCE NAME", "make the block device /dev/mapper/NAME",
	  "rfatpDsnQPo" },
	{ "close", verb_close, 1, -1, "NAME...", "remove devices made by open", "d" },
	{ "merge", verb_merge, 1, 1, "NAME", "write what an overlay holds into its image", "aQ" },
	{ "revert", verb_revert, 1, 1, "NAME", "drop what an overlay holds", "" },
	{ "reload", verb_reload, 1, 1, "NAME", "follow a file that Windows extended or moved",
	  "aQ" },
	{ "list", verb_list, 0, 0, "", "show what is open", "j" },
	{ "status", verb_status, 1, 1, "NAME", "show one open device", "j" },
	{ "info", verb_info, 1, 1, "SOURCE", "show format, sizes, parents, snapshots", "fjpDn" },
	{ "map", verb_map, 1, 1, "SOURCE", "show the extents, as qemu-img map does", "fjpDn" },
	{ "cat", verb_cat, 1, 1, "SOURCE", "write the disk's contents to standard output", "fpDn" },
	{ "check", verb_check, 1, 1, "SOURCE", "show every safety fact of volume, file and image",
	  "rfajpDnRQ" },
	{ "log", verb_log, 1, 1, "SOURCE|DEVICE", "show what Windows may replay, from $LogFile",
	  "j" },
	{ "reserve", verb_reserve, 2, 2, "SOURCE SIZE",
	  "make room inside a dynamic VHD or qcow2 on a mounted file system", "" },
	{ "verify", verb_verify, 0, 1, "[NAME]",
	  "compare an open device, or all, with the disk as it is now", "aj" },
	{ "host", verb_host, 2, 2, "DEVICE NAME",
	  "make a read-only view of the NTFS volume, mountable beside open images", "" },
	{ "up", verb_up, 0, -1, "[NAME...]", "open what /etc/ntfsmaptab names", "Tei" },
	{ "down", verb_down, 0, -1, "[NAME...]", "close what /etc/ntfsmaptab names", "Te" },
	{ "cmdline", verb_cmdline, 1, 1, "NAME",
	  "print the kernel parameter that opens NAME before root is mounted", "T" },
	{ NULL, NULL, 0, 0, NULL, NULL, NULL },
};

static const struct option long_options[] = {
	{ "readonly", no_argument, NULL, 'r' },
	{ "format", required_argument, NULL, 'f' },
	{ "allow", required_argument, NULL, OPT_ALLOW },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "parent", required_argument, NULL, OPT_PARENT },
	{ "data", required_argument, NULL, OPT_DATA },
	{ "snapshot", required_argument, NULL, OPT_SNAPSHOT },
	{ "overlay", required_argument, NULL, OPT_OVERLAY },
	{ "static", no_argument, NULL, OPT_STATIC },
	{ "quick", no_argument, NULL, OPT_QUICK },
	{ "repair", optional_argument, NULL, OPT_REPAIR },
	{ "tab", required_argument, NULL, OPT_TAB },
	{ "device", required_argument, NULL, OPT_DEVICE },
	{ "initrd", no_argument, NULL, OPT_INITRD },
	{ "concise", no_argument, NULL, OPT_CONCISE },
	{ "partitions", no_argument, NULL, OPT_PARTITIONS },
	{ "test", no_argument, NULL, OPT_TEST },
	{ "deferred", no_argument, NULL, OPT_DEFERRED },
	{ "debug", no_argument, NULL, OPT_DEBUG },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

struct command {
	struct options opt;
	char used[32]; /* option keys that were given, each once; there are fewer */
	size_t n_used;
	bool help, version;
};

static const struct verb *find_verb(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static void print_help(const struct verb *only)
{
	if (only) {
		printf("Usage: ntfsmap %s [OPTION...] %s\n%c%s.\n\n", only->name, only->args,
		       only->help[0] - 'a' + 'A', only->help + 1);
	} else {
		printf("Usage: ntfsmap [VERB] [OPTION...] ARGUMENT...\n"
		       "Make image files on a hibernated NTFS volume usable as block devices.\n\n");
		for (const struct verb *v = verbs; v->name; v++)
			printf("  %-7s %-24s %s\n", v->name, v->args, v->help);
		printf("\nSOURCE: DEVICE:/path, UUID=…:/path, LABEL=…:/path, PARTUUID=…:/path, a "
		       "path "
		       "below a\nmounted NTFS volume, an image file, a block device.\n"
		       "    ntfsmap /dev/sda3:/disk.vhd | dmsetup create disk\n\n");
	}
	for (size_t i = 0; i < sizeof(option_helps) / sizeof(option_helps[0]); i++)
		if (!only || strchr(only->options, option_helps[i].key))
			puts(option_helps[i].text);
	puts("  -q, --quiet         no notes about what was done or seen\n"
	     "      --debug         tell what libntfs-3g and libdevmapper say\n"
	     "  -h, --help          this text; `ntfsmap VERB --help` for one verb\n"
	     "  -V, --version\n\n"
	     "Exit status: 0 done, 1 usage, 2 refused, 4 not found, 5 busy, 6 damaged or "
	     "different,\n"
	     "7 system error. See ntfsmap(8).");
}

static int set_repair(struct options *opt, const char *word)
{
	opt->repair = word ? word : "all";
	if (!strcmp(opt->repair, "all") || !strcmp(opt->repair, "leaks"))
		return DONE;
	return fail(USAGE, "--repair=%s: the words are leaks and all", word);
}

static void use(struct command *c, char key)
{
	if (!strchr(c->used, key) && c->n_used < sizeof(c->used) - 1)
		c->used[c->n_used++] = key;
}

/* Options that switch something on. */
static bool take_flag(struct command *c, int key)
{
	const struct {
		int key;
		char letter;
		bool *flag;
	} flags[] = {
		{ 'r', 'r', &c->opt.req.readonly },
		{ OPT_QUICK, 'Q', &c->opt.req.quick },
		{ OPT_JSON, 'j', &c->opt.json },
		{ OPT_CONCISE, 'c', &c->opt.concise },
		{ OPT_INITRD, 'i', &c->opt.initrd },
		{ OPT_TEST, 't', &c->opt.test },
		{ OPT_DEFERRED, 'd', &c->opt.deferred },
		{ OPT_PARTITIONS, 'P', &c->opt.partitions },
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		if (flags[i].key != key)
			continue;
		*flags[i].flag = true;
		use(c, flags[i].letter);
		return true;
	}
	return false;
}

static int take_option(struct command *c, int key)
{
	if (take_flag(c, key))
		return DONE;
	switch (key) {
	case 'f':
		use(c, 'f');
		return request_format(&c->opt.req, "--format ", optarg);
	case OPT_ALLOW:
		use(c, 'a');
		return request_allow(&c->opt.req, "--allow=", optarg);
	case OPT_PARENT:
	case OPT_DATA:
		*(key == OPT_DATA ? &c->opt.req.data : &c->opt.req.parent) = optarg;
		use(c, key == OPT_DATA ? 'D' : 'p');
		return DONE;
	case OPT_TAB:
	case OPT_DEVICE:
		*(key == OPT_TAB ? &c->opt.tab : &c->opt.device) = optarg;
		use(c, key == OPT_TAB ? 'T' : 'e');
		return DONE;
	case OPT_REPAIR:
		use(c, 'R');
		return set_repair(&c->opt, optarg);
	case OPT_SNAPSHOT:
		c->opt.req.snapshot = optarg;
		c->opt.req.readonly = true;
		use(c, 'n');
		return DONE;
	case OPT_OVERLAY:
		c->opt.overlay = optarg;
		use(c, 'o');
		return DONE;
	case OPT_STATIC:
		c->opt.req.as_static = c->opt.req.readonly = true;
		use(c, 's');
		return DONE;
	case OPT_DEBUG:
		opt_debug = true;
		return DONE;
	case 'q':
		opt_quiet = true;
		return DONE;
	case 'h':
		c->help = true;
		return DONE;
	case 'V':
		c->version = true;
		return DONE;
	default: /* getopt_long() has said why */
		return fail(USAGE, "see ntfsmap --help");
	}
}

static int parse(int argc, char **argv, struct command *c)
{
	int key;

	while ((key = getopt_long(argc, argv, "rf:qhV", long_options, NULL)) != -1) {
		int code = take_option(c, key);

		if (code)
			return code;
	}
	return DONE;
}

static const char *option_name(char key)
{
	for (size_t i = 0; i < sizeof(option_helps) / sizeof(option_helps[0]); i++)
		if (option_helps[i].key == key)
			return option_helps[i].name;
	return "?";
}

static int check_usage(const struct verb *v, const struct command *c, int n_args)
{
	for (size_t i = 0; i < c->n_used; i++)
		if (!strchr(v->options, c->used[i]))
			return fail(USAGE, "%s has no option --%s: see ntfsmap %s --help", v->name,
				    option_name(c->used[i]), v->name);
	if (strchr(c->used, 'r') && strchr(c->used, 'o'))
		return fail(USAGE, "--readonly and --overlay: a device with an overlay can be "
				   "written, and its image is never: leave one of them out");
	if (n_args < v->min_args || (v->max_args >= 0 && n_args > v->max_args))
		return fail(USAGE, "usage: ntfsmap %s%s%s", v->name, *v->args ? " " : "", v->args);
	return DONE;
}

static int run(int argc, char **argv, const struct command *c, const struct verb **verb)
{
	int code;

	*verb = find_verb("table");
	if (argc < 1) {
		if (c->help) {
			print_help(NULL);
			return DONE;
		}
		return fail(USAGE, "nothing to do: see ntfsmap --help");
	}
	if (find_verb(argv[0])) {
		*verb = find_verb(argv[0]);
		argc--;
		argv++;
	} else if (!source_looks_like(argv[0])) {
		return fail(USAGE,
			    "\"%s\" is no verb (ntfsmap --help), and a SOURCE has a '/', ':' or "
			    "'=' in it: "
			    "./%s for a file here",
			    argv[0], argv[0]);
	}
	if (c->help) {
		print_help(*verb);
		return DONE;
	}
	opt_table = (*verb)->run == verb_table;
	code = check_usage(*verb, c, argc);
	return code ? code : (*verb)->run(argc, argv, &c->opt);
}

/* dmsetup makes an empty device from an empty table, and calls it success: so it gets a line that
 * it cannot parse. */
static void spoil_table(void)
{
	const char *why = failure_text();

	printf("refused: %s\n", why ? why : "see the messages");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const struct verb *verb = find_verb("table");
	struct command c = { 0 };
	int code;

	signal(SIGPIPE, SIG_IGN); /* a broken pipe is an error like others */
	if (argc > 1 && find_verb(argv[1]))
		verb = find_verb(argv[1]); /* for errors in options */
	code = process_start();
	if (!code)
		code = parse(argc, argv, &c);
	if (!code && c.version) {
		puts("ntfsmap " VERSION);
		return finish_stdout();
	}
	if (!code)
		code = run(argc - optind, argv + optind, &c, &verb);
	if (code && verb->run == verb_table)
		spoil_table();
	return code;
}
