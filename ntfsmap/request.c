// SPDX-License-Identifier: GPL-2.0-or-later
/* The words that go into a struct request, from the command line and from ntfsmaptab. */
#include <stdlib.h>
#include <string.h>

#include "safety.h"

int request_allow(struct request *req, const char *option, const char *word)
{
	char *list = text_copy("");

	for (const char *const *w = safety_words; *w; w++) {
		char *longer = text("%s%s%s", list, *list ? ", " : "", *w);

		free(list);
		list = longer;
		if (!strcmp(*w, word) && req->n_allowed < MAX_ALLOWED) {
			req->allowed[req->n_allowed++] = *w;
			free(list);
			return DONE;
		}
	}
	fail(USAGE, "%s%s: the words are %s", option, word, list);
	free(list);
	return USAGE;
}

int request_format(struct request *req, const char *option, const char *format)
{
	static const char *const formats[] = { "raw", "vhd", "qcow", "qcow2" };

	if (!strcmp(format, "vpc")) /* qemu's name for it */
		format = "vhd";
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (!strcmp(format, formats[i])) {
			req->format = formats[i];
			return DONE;
		}
	return fail(USAGE, "%s%s: the formats are raw, vhd, qcow and qcow2", option, format);
}
