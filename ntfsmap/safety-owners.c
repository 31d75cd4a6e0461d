// SPDX-License-Identifier: GPL-2.0-or-later
/* Does another file, or another part of the same one, have clusters of the file? */
#include <stdlib.h>
#include <string.h>

#include "facts.h"

/* $DATA "stream" */
static char *attribute_text(const struct owner_claim *c)
{
	const char *type = ntfs_attr_type_name(c->type);
	char *unknown = type ? NULL : text("attribute 0x%x", c->type);
	char *all = text("%s%s%s%s", type ? type : unknown, *c->name ? " \"" : "", c->name,
			 *c->name ? "\"" : "");

	free(unknown);
	return all;
}

static char *owner_text(const struct owner_claim *c)
{
	if (c->same_stream)
		return text_copy("the file's own stream, a part that the file does not know of");
	if (c->same_file)
		return text_copy("the same file");
	if (!c->file || !*c->file)
		return text("the file of MFT record %llu", (unsigned long long)c->base);
	return text("\"%s\"", c->file);
}

static void claimed(const struct owners *o, struct facts *facts)
{
	const struct owner_claim *c = &o->first;
	char *attribute = attribute_text(c), *owner = owner_text(c);

	objection(facts, "owners",
		  "its LCN %llu also belongs to MFT record %llu (sequence %u), %s of %s; %llu "
		  "attribute%s in all %s clusters of it: let Windows run chkdsk",
		  (unsigned long long)c->lcn, (unsigned long long)c->record, c->sequence, attribute,
		  owner, (unsigned long long)o->claims, o->claims == 1 ? "" : "s",
		  o->claims == 1 ? "has" : "have");
	free(attribute);
	free(owner);
}

static void judge(const struct owners *o, struct facts *facts)
{
	if (o->claims)
		claimed(o, facts);
	else if (o->unreadable)
		fact_add(facts, "owners", DAMAGED,
			 "MFT record %llu is in use and cannot be read, so it may have clusters of "
			 "the file: %s (%llu such record%s): let Windows run chkdsk",
			 (unsigned long long)o->first_unreadable, o->problem,
			 (unsigned long long)o->unreadable, o->unreadable == 1 ? "" : "s");
	else
		ok(facts, "owners",
		   "no other record of the MFT claims one of its clusters (%llu records)",
		   (unsigned long long)o->records);
}

void look_at_owners(const struct ntfs_file *f, const struct request *req, struct facts *facts)
{
	struct owners o;
	int ret;

	if (req->readonly) {
		ok(facts, "owners", "not looked at, as nothing will be written");
		return;
	}
	if (req->quick) {
		caution(facts, "owners",
			"not looked at (--quick): another file may have clusters of it");
		return;
	}
	ret = volume_owners(f, &o);
	if (ret) {
		fact_add(facts, "owners", exit_code_of(-ret), "the MFT cannot be read: %s",
			 strerror(-ret));
		return;
	}
	judge(&o, facts);
	owners_free(&o);
}
