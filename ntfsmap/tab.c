// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "msg.h"
#include "name.h"
#include "tab.h"
#include "utf8.h"

#define MAX_BYTES   (256 << 10) /* of a file */
#define MAX_ENTRIES 1024
#define MAX_DIGITS  7 /* of seconds */

enum value { FLAG, TEXT, SOURCE, PATH, SECONDS, WORDS };

/* The options. early: it matters before root is mounted, so the kernel command line has it, too. */
static const struct rule {
	const char *word;
	enum value value;
	size_t offset;
	bool early;
} rules[] = {
	{ "ro", FLAG, offsetof(struct tab_entry, readonly), true },
	{ "partitions", FLAG, offsetof(struct tab_entry, partitions), true },
	{ "static", FLAG, offsetof(struct tab_entry, as_static), true },
	{ "quick", FLAG, offsetof(struct tab_entry, quick), true },
	{ "overlay", SOURCE, offsetof(struct tab_entry, overlay), true },
	{ "parent", SOURCE, offsetof(struct tab_entry, parent), true },
	{ "data", SOURCE, offsetof(struct tab_entry, data), true },
	{ "format", TEXT, offsetof(struct tab_entry, format), true },
	{ "snapshot", TEXT, offsetof(struct tab_entry, snapshot), true },
	{ "allow", WORDS, 0, true },
	{ "timeout", SECONDS, offsetof(struct tab_entry, timeout), true },
	{ "nofail", FLAG, offsetof(struct tab_entry, nofail), true },
	{ "noauto", FLAG, offsetof(struct tab_entry, noauto), false },
	{ "host", PATH, offsetof(struct tab_entry, host), false },
	{ "x-initrd.attach", FLAG, offsetof(struct tab_entry, attach), false },
};

#define N_RULES (sizeof(rules) / sizeof(rules[0]))

static bool *flag_of(const struct rule *r, struct tab_entry *e)
{
	return (bool *)((char *)e + r->offset);
}

static char **text_of(const struct rule *r, struct tab_entry *e)
{
	return (char **)((char *)e + r->offset);
}

bool tab_has_control(const char *s)
{
	size_t len;
	uint32_t c;

	for (; *s; s += len) {
		len = utf8_next(s, &c);
		if (c < ' ' || (c >= 0x7f && c < 0xa0))
			return true;
	}
	return false;
}

static bool is_octal(const char *s)
{
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' && s[2] >= '0' &&
	       s[2] <= '7';
}

/* Undo \040 and its like in place; other backslashes are what they are. A NUL byte becomes a line
 * feed, which is as forbidden. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (*s == '\\' && is_octal(s + 1)) {
			*out = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			if (!*out)
				*out = '\n';
			out++;
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

static char *append(char *s, const char *more)
{
	char *longer = text("%s%s", s, more);

	free(s);
	return longer;
}

/* What would end the word or a part of it, and what nobody could see. */
static char *escape(const char *s)
{
	char *out = must_alloc(strlen(s) * 4 + 1), *p = out;

	while (*s) {
		uint32_t c;
		size_t len = utf8_next(s, &c);
		bool plain = c != UTF8_INVALID && !utf8_acts(c) && !strchr(" ,\\\"", *s);

		for (; len; len--, s++)
			p += sprintf(p, plain ? "%c" : "\\%03o", (unsigned char)*s);
	}
	return out;
}

static int take_seconds(struct tab_entry *e, const char *value)
{
	size_t n = strspn(value, "0123456789");

	if (!n || value[n] || n > MAX_DIGITS)
		return fail(USAGE, "%s: timeout=%s: a number of seconds is expected, 0 for ever",
			    e->where, value);
	e->timeout = atoi(value);
	return DONE;
}

static int take_value(struct tab_entry *e, const struct rule *r, const char *value)
{
	if (!*value)
		return fail(USAGE, "%s: %s= has no value", e->where, r->word);
	if (r->value == SECONDS)
		return take_seconds(e, value);
	if (r->value == PATH && *value != '/')
		return fail(USAGE, "%s: %s=%s: a path that begins with / is expected", e->where,
			    r->word, value);
	if (r->value != WORDS) {
		*text_of(r, e) = text_copy(value);
		return DONE;
	}
	if (e->n_allow == TAB_ALLOW)
		return fail(USAGE, "%s: %s=%s: more than %d times in one entry", e->where, r->word,
			    value, TAB_ALLOW);
	e->allow[e->n_allow++] = text_copy(value);
	return DONE;
}

static bool is_given(const struct rule *r, struct tab_entry *e)
{
	switch (r->value) {
	case FLAG:
		return *flag_of(r, e);
	case SECONDS:
		return e->timeout >= 0;
	case WORDS:
		return false; /* may be repeated */
	default:
		return *text_of(r, e) != NULL;
	}
}

static const struct rule *find_rule(const char *option, size_t len)
{
	for (size_t i = 0; i < N_RULES; i++)
		if (strlen(rules[i].word) == len && !strncmp(rules[i].word, option, len))
			return &rules[i];
	return NULL;
}

static int take_option(struct tab_entry *e, char *option)
{
	size_t len = strcspn(option, "=");
	const struct rule *r = find_rule(option, len);

	if (!*option)
		return fail(USAGE, "%s: an option is empty: there is a comma too many", e->where);
	unescape(option);
	if (tab_has_control(option))
		return fail(USAGE, "%s: the option \"%s\" has a control character in it", e->where,
			    option);
	if (!r && !strncmp(option, "x-", 2))
		return DONE; /* somebody else's */
	if (!r)
		return fail(USAGE, "%s: \"%s\" is no option: see ntfsmaptab(5)", e->where, option);
	if (is_given(r, e))
		return fail(USAGE, "%s: %s is given twice", e->where, r->word);
	if (r->value != FLAG)
		return option[len] ? take_value(e, r, option + len + 1)
				   : fail(USAGE, "%s: %s needs a value: %s=…", e->where, r->word,
					  r->word);
	if (option[len])
		return fail(USAGE, "%s: %s takes no value, and there is \"%s\"", e->where, r->word,
			    option);
	*flag_of(r, e) = true;
	return DONE;
}

static int take_options(struct tab_entry *e, char *options)
{
	char *option;
	int code = DONE;

	while (!code && (option = strsep(&options, ",")))
		code = take_option(e, option);
	if (!code && e->readonly && e->overlay)
		code = fail(USAGE,
			    "%s: ro and overlay=: a device with an overlay can be written, and its "
			    "image is never: leave one of them out",
			    e->where);
	return code;
}

static int take_source(struct tab_entry *e, char *source)
{
	if (!source || !*source)
		return fail(USAGE, "%s: %s has no SOURCE: a line is NAME SOURCE OPTIONS", e->where,
			    e->name);
	unescape(source);
	if (tab_has_control(source))
		return fail(USAGE, "%s: the SOURCE \"%s\" has a control character in it", e->where,
			    source);
	e->source = text_copy(source);
	return DONE;
}

static void free_entry(struct tab_entry *e)
{
	for (size_t i = 0; i < N_RULES; i++)
		if (rules[i].value == TEXT || rules[i].value == SOURCE || rules[i].value == PATH)
			free(*text_of(&rules[i], e));
	for (size_t i = 0; i < e->n_allow; i++)
		free(e->allow[i]);
	free(e->where);
	free(e->name);
	free(e->source);
}

static struct tab_entry *find(const struct tab *tab, const char *name)
{
	for (size_t i = 0; i < tab->n; i++)
		if (!strcmp(tab->v[i].name, name))
			return &tab->v[i];
	return NULL;
}

const char *tab_source(const struct tab_entry *e, unsigned int i)
{
	switch (i) {
	case 0:
		return e->source;
	case 1:
		return e->overlay && strcmp(e->overlay, "tmpfs") ? e->overlay : NULL;
	case 2:
		return e->parent;
	default:
		return e->data;
	}
}

const struct tab_entry *tab_find(const struct tab *tab, const char *name)
{
	return find(tab, name);
}

/* A new entry at the end. where is taken over, the name is copied. */
static int add(struct tab *tab, char *where, const char *name, struct tab_entry **added)
{
	const char *fault = name_fault(name);
	int code = DONE;

	if (fault)
		code = fail(USAGE, "%s: \"%s\" cannot be a device's name: %s", where, name, fault);
	else if (tab->n == MAX_ENTRIES)
		code = fail(USAGE, "%s: more than %d entries", where, MAX_ENTRIES);
	if (code) {
		free(where);
		return code;
	}
	tab->v = must_regrow(tab->v, tab->n + 1, sizeof(*tab->v));
	*added = &tab->v[tab->n++];
	**added = (struct tab_entry){ .where = where, .name = text_copy(name), .timeout = -1 };
	return DONE;
}

static void drop(struct tab *tab, size_t i)
{
	free_entry(&tab->v[i]);
	tab->n--;
	memmove(&tab->v[i], &tab->v[i + 1], (tab->n - i) * sizeof(*tab->v));
}

static void drop_bad(struct tab *tab)
{
	for (size_t i = tab->n; i-- > 0;)
		if (tab->v[i].bad)
			drop(tab, i);
}

static int fail_twice(struct tab_entry *first, struct tab_entry *second)
{
	first->bad = second->bad = true;
	return fail(USAGE, "%s: %s is there twice, and is in %s, too: neither is taken",
		    second->where, second->name, first->where);
}

static char *next_field(char **rest)
{
	char *field;

	do
		field = strsep(rest, " \t");
	while (field && !*field);
	return field;
}

static int read_line(struct tab *tab, char *where, char *line)
{
	char *name = next_field(&line), *source = next_field(&line), *options = next_field(&line);
	char *more = next_field(&line);
	struct tab_entry *e, *before;
	int code;

	if (!name || *name == '#') {
		free(where);
		return DONE;
	}
	before = find(tab, name);
	code = add(tab, where, name, &e);
	if (code)
		return code;
	if (before) /* add() may have moved it */
		return fail_twice(find(tab, name), e);
	code = take_source(e, source);
	if (!code && more)
		code = fail(USAGE,
			    "%s: \"%s\" is one word too many: a line is NAME SOURCE OPTIONS, a "
			    "space in a word is written as \\040",
			    e->where, more);
	if (!code && options)
		code = take_options(e, options);
	e->bad = code != DONE;
	return code;
}

static int read_lines(const char *file, char *bytes, size_t len, struct tab *tab)
{
	unsigned int number = 0;
	int first = DONE;
	char *line;

	if (strlen(bytes) < len)
		return fail(USAGE, "%s: byte %zu is NUL: this is no text", file, strlen(bytes));
	while ((line = strsep(&bytes, "\n"))) {
		char *where = text("%s:%u", file, ++number);
		int code = read_line(tab, where, line);

		if (!first)
			first = code;
	}
	drop_bad(tab);
	tab->incomplete = first != DONE;
	return first;
}

/* It tells what root opens, so only root may be able to write it. */
static int check_owner(const char *file, const struct stat *st)
{
	if (geteuid())
		return DONE;
	if (st->st_uid)
		return fail(REFUSED,
			    "%s belongs to user %u, who could have root open anything: chown root "
			    "%s, once you have looked at what it says",
			    file, st->st_uid, file);
	if (st->st_mode & S_IWOTH || (st->st_mode & S_IWGRP && st->st_gid))
		return fail(REFUSED,
			    "%s can be written by others than root (mode %04o), who could have "
			    "root open anything: chmod go-w %s, once you have looked at what it "
			    "says",
			    file, st->st_mode & 07777, file);
	return DONE;
}

/* At most MAX_BYTES; *bytes is NULL after a failure. */
static int read_all(int fd, const char *file, char **bytes, size_t *len)
{
	char *buf = must_alloc(MAX_BYTES + 2);
	ssize_t n = 0;

	for (*len = 0; *len <= MAX_BYTES; *len += (size_t)n) {
		n = read(fd, buf + *len, MAX_BYTES + 1 - *len);
		if (n <= 0)
			break;
	}
	*bytes = NULL;
	if (n < 0 || *len > MAX_BYTES) {
		free(buf);
		return n < 0 ? fail_errno(errno, "cannot read %s", file)
			     : fail(USAGE, "%s is longer than %d bytes", file, MAX_BYTES);
	}
	*bytes = buf;
	return DONE;
}

static int read_file(const char *file, char **bytes, size_t *len)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int code;

	*bytes = NULL;
	if (fd < 0)
		return fail_errno(errno, "cannot open %s", file);
	if (fstat(fd, &st))
		code = fail_errno(errno, "cannot look at %s", file);
	else if (!S_ISREG(st.st_mode))
		code = fail(REFUSED, "%s is no regular file", file);
	else
		code = check_owner(file, &st);
	if (!code)
		code = read_all(fd, file, bytes, len);
	close(fd);
	return code;
}

int tab_read(const char *file, bool may_miss, struct tab *tab)
{
	size_t len;
	char *bytes;
	int code;

	*tab = (struct tab){ 0 };
	if (may_miss && access(file, F_OK) && errno == ENOENT)
		return DONE;
	code = read_file(file, &bytes, &len);
	if (bytes)
		code = read_lines(file, bytes, len, tab);
	free(bytes);
	return code;
}

/* The next word, without the quotes that let it have spaces; NULL at the end. */
static char *next_parameter(char **rest)
{
	char *p = *rest + strspn(*rest, " \t\n"), *word = p, *out = p;
	bool quoted = false;

	if (!*p)
		return NULL;
	for (; *p && (quoted || !strchr(" \t\n", *p)); p++)
		if (*p == '"')
			quoted = !quoted;
		else
			*out++ = *p;
	*rest = *p ? p + 1 : p;
	*out = '\0';
	return word;
}

static char *value_of(char *word)
{
	static const char *const keys[] = { "ntfsmap=", "rd.ntfsmap=" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!strncmp(word, keys[i], strlen(keys[i])))
			return word + strlen(keys[i]);
	return NULL;
}

static bool same(const struct tab_entry *a, const struct tab_entry *b)
{
	char *x = tab_cmdline(a, NULL), *y = tab_cmdline(b, NULL);
	bool is = !strcmp(x, y);

	free(x);
	free(y);
	return is;
}

/* NAME,SOURCE[,OPTION…] */
static int read_parameter(struct tab *tab, const char *file, char *value)
{
	char *rest = value, *name = strsep(&rest, ","), *source = strsep(&rest, ",");
	struct tab_entry *e, *first;
	int code = add(tab, text("%s: ntfsmap=%s", file, name), name, &e);

	if (!code) {
		code = take_source(e, source);
		if (!code && rest)
			code = take_options(e, rest);
		e->attach = true; /* what else should be named there */
		e->bad = code != DONE;
		first = find(tab, name);
		if (!code && first && first != e) {
			if (first->bad || !same(first, e))
				return fail_twice(first, e);
			e->bad = true;
		}
	}
	return code;
}

int tab_read_cmdline(const char *file, struct tab *tab)
{
	struct tab mine = { 0 };
	char *bytes, *rest, *word;
	size_t len;
	int first = read_file(file, &bytes, &len);

	if (!bytes)
		return first;
	for (rest = bytes; (word = next_parameter(&rest));) {
		char *value = value_of(word);
		int code = value ? read_parameter(&mine, file, value) : DONE;

		if (!first)
			first = code;
	}
	free(bytes);
	drop_bad(&mine);
	tab->incomplete |= first != DONE;
	for (size_t i = 0; i < mine.n; i++) {
		struct tab_entry *old = find(tab, mine.v[i].name);

		if (old)
			drop(tab, (size_t)(old - tab->v));
		tab->v = must_regrow(tab->v, tab->n + 1, sizeof(*tab->v));
		tab->v[tab->n++] = mine.v[i];
	}
	free(mine.v);
	return first;
}

char *tab_parameter(const char *file, const char *key)
{
	char *bytes, *rest, *word, *value = NULL;
	size_t len;

	read_file(file, &bytes, &len);
	if (!bytes)
		return NULL;
	for (rest = bytes; (word = next_parameter(&rest));)
		if (!strncmp(word, key, strlen(key))) {
			free(value);
			value = text_copy(word + strlen(key));
		}
	free(bytes);
	return value;
}

void tab_free(struct tab *tab)
{
	for (size_t i = 0; i < tab->n; i++)
		free_entry(&tab->v[i]);
	free(tab->v);
	*tab = (struct tab){ 0 };
}

char *tab_volume(const char *source)
{
	for (const char *p = source; (p = strchr(p, ':')); p++)
		if (p[1] == '/' || p[1] == '\\')
			return text("%.*s", (int)(p - source), source);
	return text_copy(source);
}

static char *append_word(char *s, const char *before, const char *word)
{
	char *escaped = escape(word);

	s = append(append(s, before), escaped);
	free(escaped);
	return s;
}

static char *append_source(char *s, const char *spec, char *(*source)(const char *))
{
	char *other = source ? source(spec) : text_copy(spec);

	s = append_word(s, "", other);
	free(other);
	return s;
}

static char *append_option(char *s, const struct rule *r, struct tab_entry *e,
			   char *(*source)(const char *))
{
	char number[16];

	s = append(append(s, ","), r->word);
	switch (r->value) {
	case FLAG:
		return s;
	case SECONDS:
		snprintf(number, sizeof(number), "=%d", e->timeout);
		return append(s, number);
	case SOURCE:
		return append_source(append(s, "="), *text_of(r, e), source);
	default:
		return append_word(s, "=", *text_of(r, e));
	}
}

char *tab_cmdline(const struct tab_entry *entry, char *(*source)(const char *))
{
	struct tab_entry e = *entry; /* for text_of(), which is for changing, too */
	char *s = text("ntfsmap=%s,", e.name);

	s = append_source(s, e.source, source);
	for (size_t i = 0; i < N_RULES; i++)
		if (rules[i].early && is_given(&rules[i], &e))
			s = append_option(s, &rules[i], &e, source);
	for (size_t i = 0; i < e.n_allow; i++)
		s = append_word(s, ",allow=", e.allow[i]);
	return s;
}
