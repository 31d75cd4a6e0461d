// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Any bytes as /etc/ntfsmaptab and as the kernel command line: what is taken can be used, and what
 * ntfsmap makes of it for the kernel command line is read as the same. So is each SOURCE: where
 * its device ends is agreed.
 */
#include <unistd.h>

#include "../../ntfsmap/msg.h"
#include "../../ntfsmap/name.h"
#include "../../ntfsmap/tab.h"
#include "fuzz.h"

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static void look_at_text(const char *s, const char *what)
{
	expect(!s || !tab_has_control(s), "there are control characters in %s", what);
	expect(!s || *s, "%s is empty", what);
}

static void look_at_source(const char *source)
{
	char *volume = tab_volume(source);
	size_t length = strlen(volume);

	expect(!strncmp(source, volume, length), "%s is not the beginning of %s", volume, source);
	expect(!source[length] || (source[length] == ':' &&
				   (source[length + 1] == '/' || source[length + 1] == '\\')),
	       "the device of %s ends behind %s", source, volume);
	free(volume);
}

static void look_at_entry(const struct tab_entry *e)
{
	expect(!name_fault(e->name), "the name %s", e->name);
	look_at_text(e->source, "SOURCE");
	look_at_text(e->overlay, "overlay");
	look_at_text(e->parent, "parent");
	look_at_text(e->data, "data");
	look_at_text(e->format, "format");
	look_at_text(e->snapshot, "snapshot");
	look_at_text(e->host, "host");
	for (size_t i = 0; i < e->n_allow; i++)
		look_at_text(e->allow[i], "allow");
	expect(e->source, "an entry without a SOURCE");
	expect(!e->bad, "a bad entry is kept");
	expect(!e->host || *e->host == '/', "host is %s", e->host);
	expect(e->timeout >= -1, "timeout is %d", e->timeout);
	expect(!(e->readonly && e->overlay), "read-only, with an overlay");
	for (unsigned int i = 0; i < TAB_SOURCES; i++)
		if (tab_source(e, i))
			look_at_source(tab_source(e, i));
}

static void compare(const struct tab_entry *a, const struct tab_entry *b)
{
	bool same = !strcmp(a->name, b->name) && !strcmp(a->source, b->source) &&
		    a->readonly == b->readonly && a->partitions == b->partitions &&
		    a->as_static == b->as_static && a->quick == b->quick &&
		    a->nofail == b->nofail && a->timeout == b->timeout &&
		    same_text(a->overlay, b->overlay) && same_text(a->parent, b->parent) &&
		    same_text(a->data, b->data) && same_text(a->format, b->format) &&
		    same_text(a->snapshot, b->snapshot) && a->n_allow == b->n_allow;

	for (size_t i = 0; i < a->n_allow && same; i++)
		same = !strcmp(a->allow[i], b->allow[i]);
	expect(same, "%s is another one on the kernel command line", a->name);
}

/* There and back. */
static void look_at_cmdline(const struct tab_entry *e)
{
	char *words = tab_cmdline(e, NULL), path[32];
	int fd = bytes_as_file((const uint8_t *)words, strlen(words), path);
	struct tab tab = { 0 };
	int code = tab_read_cmdline(path, &tab);

	expect(!code && tab.n == 1, "not taken: %s", words);
	look_at_entry(&tab.v[0]);
	compare(e, &tab.v[0]);
	tab_free(&tab);
	free(words);
	close(fd);
}

static void look_at_tab(const struct tab *tab, int code)
{
	expect(!code == !tab->incomplete || !tab->n, "code %d, and %s", code,
	       tab->incomplete ? "something is left out" : "nothing is left out");
	for (size_t i = 0; i < tab->n; i++) {
		look_at_entry(&tab->v[i]);
		look_at_cmdline(&tab->v[i]);
		expect(tab_find(tab, tab->v[i].name) == &tab->v[i], "%s is there twice",
		       tab->v[i].name);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[32];
	int fd = bytes_as_file(data, size, path);
	struct tab tab;
	char *root;

	msg_hush(true);
	look_at_tab(&tab, tab_read(path, false, &tab));
	tab_read_cmdline(path, &tab); /* over what is there */
	for (size_t i = 0; i < tab.n; i++)
		look_at_entry(&tab.v[i]);
	tab_free(&tab);
	look_at_tab(&tab, tab_read_cmdline(path, &tab));
	tab_free(&tab);
	root = tab_parameter(path, "root=");
	free(root);
	msg_hush(false);
	close(fd);
	return 0;
}
