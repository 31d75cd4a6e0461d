// SPDX-License-Identifier: GPL-2.0-or-later
/* check: all that is known about a SOURCE. */
#include <stdlib.h>

#include "blk.h"
#include "repair.h"
#include "verb.h"

static json_t *facts_json(const struct image *img, const struct facts *facts)
{
	json_t *list = json_array();

	for (size_t i = 0; i < facts->n; i++) {
		const struct fact *f = &facts->v[i];

		json_array_append_new(list,
				      json_must(json_pack("{s:s, s:s, s:o, s:s?}", "fact", f->name,
							  "verdict", fact_word(f), "text",
							  json_text(f->text), "allow", f->allow)));
	}
	return json_pack("{s:o, s:b, s:i, s:I, s:I, s:o}", "source", json_text(img->name), "safe",
			 !safety_verdict(facts), "exit_code", (int)safety_verdict(facts), "errors",
			 (json_int_t)facts->found.errors, "leaks", (json_int_t)facts->found.leaks,
			 "facts", list);
}

static void print_fact(const struct fact *f)
{
	bool word = f->allow && !f->lifted;

	printf("%-8s %-13s %s%s%s\n", fact_word(f), f->name, f->text,
	       word ? "; at your own risk: --allow=" : "", word ? f->allow : "");
}

static void print_facts(const struct image *img, const struct request *req,
			const struct facts *facts)
{
	const char *mode = req->readonly ? "read-only" : "read-write";

	for (size_t i = 0; i < facts->n; i++)
		print_fact(&facts->v[i]);
	if (!img->file && img->vol)
		printf("%s: a volume; name a file on it to learn whether it can be mapped\n",
		       shown(img->name));
	else if (safety_verdict(facts))
		printf("%s: must not be mapped %s\n", shown(img->name), mode);
	else
		printf("%s: can be mapped %s\n", shown(img->name), mode);
}

int open_file_or_volume(const char *spec, const char *format, struct image *img)
{
	int code = image_open(spec, img);

	if (!code && !format && img->src.kind != SOURCE_NTFS && blk_is_ntfs(img->src.device))
		code = volume_open(img->src.device, &img->vol);
	if (code)
		image_close(img);
	return code;
}

/* Is there an image to look at? The facts have said why not. */
static bool has_image(const struct image *img)
{
	bool has;

	if (!img->file)
		return !img->vol;
	if (!img->file->data_size)
		return false;
	msg_hush(true);
	has = !need_readable(img);
	msg_hush(false);
	return has;
}

int verb_check(int argc, char **argv, const struct options *opt)
{
	struct facts facts;
	struct image img;
	int code;

	(void)argc;
	if (opt->repair)
		return repair_source(argv[0], opt);
	code = open_file_or_volume(argv[0], opt->req.format, &img);
	if (code)
		return code;
	code = safety_look(&img, &opt->req, &facts);
	if (!code && has_image(&img))
		safety_look_image(&img, &opt->req, &facts);
	if (!code && opt->json)
		code = print_json(facts_json(&img, &facts));
	else if (!code)
		print_facts(&img, &opt->req, &facts);
	if (!code)
		code = finish_stdout();
	if (!code)
		code = safety_verdict(&facts);
	facts_free(&facts);
	image_close(&img);
	return code;
}
