// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "mounts.h"
#include "msg.h"

/* Undo the octal escapes of spaces, tabs, line feeds and backslashes, in place. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
		    s[3] >= '0' && s[3] <= '7') {
			*out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

static bool has_option(const char *options, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = options; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, word, len) && (p[len] == ',' || !p[len]))
			return true;
	return false;
}

static const char *next_word(char **rest)
{
	const char *word = strsep(rest, " ");

	return word ? word : "";
}

/* ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL…] - TYPE SOURCE SUPEROPTIONS */
static bool parse_line(char *line, struct mount *m)
{
	const char *word;
	char *rest = line;
	unsigned int maj, min;

	next_word(&rest);
	next_word(&rest);
	if (sscanf(next_word(&rest), "%u:%u", &maj, &min) != 2)
		return false;
	m->dev = makedev(maj, min);
	m->root = text_copy(next_word(&rest));
	m->point = text_copy(next_word(&rest));
	do
		word = next_word(&rest);
	while (*word && strcmp(word, "-"));
	m->type = text_copy(next_word(&rest));
	m->source = text_copy(next_word(&rest));
	m->writable = has_option(next_word(&rest), "rw");
	unescape(m->root);
	unescape(m->point);
	unescape(m->source);
	return true;
}

void mounts_read(struct mounts *m)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;

	*m = (struct mounts){ 0 };
	while (f && getline(&line, &room, f) > 0) {
		struct mount one = { 0 };

		line[strcspn(line, "\n")] = '\0';
		if (!parse_line(line, &one))
			continue;
		m->v = must_regrow(m->v, m->n + 1, sizeof(*m->v));
		m->v[m->n++] = one;
	}
	free(line);
	if (f)
		fclose(f);
}

void mounts_free(struct mounts *m)
{
	for (size_t i = 0; i < m->n; i++) {
		free(m->v[i].root);
		free(m->v[i].point);
		free(m->v[i].type);
		free(m->v[i].source);
	}
	free(m->v);
	*m = (struct mounts){ 0 };
}

static bool is_below(const char *path, const char *point)
{
	size_t len = strlen(point);

	if (!strcmp(point, "/"))
		return true;
	return !strncmp(path, point, len) && (path[len] == '/' || !path[len]);
}

/* Later lines hide earlier ones at the same place, longer mount points shorter ones. */
const struct mount *mounts_of_path(const struct mounts *m, const char *path, dev_t dev)
{
	const struct mount *best = NULL;

	for (size_t i = 0; i < m->n; i++)
		if (m->v[i].dev == dev && is_below(path, m->v[i].point) &&
		    (!best || strlen(m->v[i].point) >= strlen(best->point)))
			best = &m->v[i];
	return best;
}
