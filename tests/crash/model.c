// SPDX-License-Identifier: GPL-2.0-or-later
#include "model.h"

static void add(struct sector *s, struct version v)
{
	if (s->n == s->room) {
		s->room = s->room ? 2 * s->room : 4;
		s->v = realloc(s->v, s->room * sizeof(*s->v));
		if (!s->v)
			abort();
	}
	s->v[s->n++] = v;
}

void model_init(struct model *m, const u64 *stamps, u64 n)
{
	*m = (struct model){ .n = n, .serial = 1 };
	m->sectors = calloc(n, sizeof(*m->sectors));
	if (!m->sectors)
		abort();
	for (u64 i = 0; i < n; i++)
		add(&m->sectors[i], (struct version){ 0, stamps[i], true });
}

void model_exit(struct model *m)
{
	for (u64 i = 0; i < m->n; i++)
		free(m->sectors[i].v);
	free(m->sectors);
	free(m->history);
}

bool model_busy(const struct model *m, u64 first, u64 count)
{
	while (count--)
		if (m->sectors[first++].busy)
			return true;
	return false;
}

u64 model_begin(struct model *m, u64 first, u64 count, bool zeros)
{
	u64 serial = m->serial++;

	if (!(serial & (serial - 1)))
		m->history = realloc(m->history, 2 * serial * sizeof(*m->history));
	if (!m->history)
		abort();
	m->history[serial] = (struct written){ first, count, zeros };
	while (count--) {
		struct sector *s = &m->sectors[first++];

		add(s, (struct version){ serial, zeros ? 0 : serial, false });
		s->busy = true;
	}
	return serial;
}

void model_end(struct model *m, u64 first, u64 count, enum outcome outcome)
{
	while (count--) {
		struct sector *s = &m->sectors[first++];

		s->busy = false;
		if (outcome == NEVER)
			s->n--;
		else if (outcome == DONE)
			s->v[s->n - 1].ended = true;
	}
}

static const struct version *latest(const struct sector *s)
{
	const struct version *v = &s->v[s->n - 1];

	while (!v->ended)
		v--;
	return v;
}

u64 *model_snapshot(const struct model *m)
{
	u64 *snapshot = calloc(m->n, sizeof(*snapshot));

	if (!snapshot)
		abort();
	for (u64 i = 0; i < m->n; i++)
		snapshot[i] = latest(&m->sectors[i])->serial;
	return snapshot;
}

static void forget(struct sector *s, u64 before)
{
	u32 gone = 0;

	while (gone < s->n && s->v[gone].serial < before)
		gone++;
	if (gone == s->n)
		abort();
	memmove(s->v, s->v + gone, (s->n - gone) * sizeof(*s->v));
	s->n -= gone;
}

void model_flushed(struct model *m, const u64 *snapshot)
{
	for (u64 i = 0; i < m->n; i++)
		if (snapshot[i] > m->sectors[i].lost)
			forget(&m->sectors[i], snapshot[i]);
	m->losing = false;
}

void model_lose(struct model *m)
{
	m->losing = true;
}

void model_flush_failed(struct model *m)
{
	for (u64 i = 0; i < m->n && m->losing; i++) {
		struct sector *s = &m->sectors[i];

		s->lost = m->serial - 1;
		for (u32 k = 1; k < s->n; k++)
			s->v[k].ended = false;
	}
	m->losing = false;
}

u64 model_oldest(const struct model *m, u64 sector, u64 *then)
{
	const struct sector *s = &m->sectors[sector];
	const struct version *v = m->losing ? s->v : latest(s);

	*then = v->stamp;
	return v->serial;
}

bool model_could_read(const struct model *m, u64 sector, u64 stamp, u64 oldest, u64 then)
{
	if (stamp == then)
		return true;
	if (stamp)
		return stamp > oldest && stamp < m->serial && !m->history[stamp].zeros &&
		       sector >= m->history[stamp].first &&
		       sector - m->history[stamp].first < m->history[stamp].count;
	for (u64 i = oldest + 1; i < m->serial; i++)
		if (m->history[i].zeros && sector >= m->history[i].first &&
		    sector - m->history[i].first < m->history[i].count)
			return true;
	return false;
}

void model_durable(struct model *m, u64 first, u64 count, u64 serial)
{
	while (count--)
		forget(&m->sectors[first++], serial);
}

bool model_survives(const struct model *m, u64 sector, u64 stamp)
{
	const struct sector *s = &m->sectors[sector];

	for (u32 i = 0; i < s->n; i++)
		if (s->v[i].stamp == stamp)
			return true;
	return false;
}

bool model_reads(const struct model *m, u64 sector, u64 stamp)
{
	const struct sector *s = &m->sectors[sector];

	for (const struct version *v = m->losing ? s->v : latest(s); v < s->v + s->n; v++)
		if (v->stamp == stamp)
			return true;
	return false;
}
