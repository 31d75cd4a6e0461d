// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forge-log.c - $LogFile
 *
 * The log is a ring of pages of 4096 bytes. The first two are restart pages. Then come pages
 * that hold copies (two tail copies in version 1.1, 32 fast copies in version 2.0), then the
 * ring proper. Here everything but the restart pages and ONE page of records is 0xff, which is
 * what mkntfs and a reset leave too. The page of records holds a checkpoint first, and behind
 * it whatever record= asks for:
 *
 *	restart page ── oldest_lsn ──► checkpoint, record, record … ◄── current_lsn ── restart page
 *
 * An LSN is a sequence number (how often the ring went round) above an offset in units of 8
 * bytes. How many bits the offset needs follows from the file's size.
 */
#include "forge.h"

#define PAGE	  DefaultLogPageSize
#define USA_COUNT (1 + PAGE / NTFS_BLOCK_SIZE)
/* In a restart page: the header of 0x1e bytes, fixups of 0x12, the area. */
#define RESTART_AREA_AT 0x30
/* In the restart area, as Windows XP and later have it. */
#define CLIENTS_AT 0x40
/* In a page of records: the header of 0x28 bytes, fixups of 0x12, padding. */
#define RECORDS_AT 0x40

#define CHECKPOINT_BYTES 0x40
/* A record without its list of LCNs. */
#define RECORD_BYTES offsetof(LOG_RECORD, lcn_list)

/* The sequence number of every LSN, and the only transaction, here. */
#define LAP	    2
#define TRANSACTION 0x18

struct log {
	s64 size; /* whole pages */
	int seq_bits;
	int first_page; /* of the ring proper */
	bool version_2;
	bool clean;
	u8 *records; /* one page */
	u32 used;    /* bytes of it */
	LSN oldest, current;
	u32 last_length; /* of the client data of the last record */
	LSN previous;	 /* record of the transaction */
};

/* ---- records ---- */

static LSN lsn_at(const struct log *log, u32 offset_in_page)
{
	const u64 offset = (u64)log->first_page * PAGE + offset_in_page;

	return (u64)LAP << (64 - log->seq_bits) | offset >> 3;
}

static LOG_RECORD *append_record(struct log *log, u32 length, le32 type)
{
	LOG_RECORD *record = (LOG_RECORD *)(log->records + log->used);

	if (LOG_RECORD_HEAD_SZ + length > PAGE - log->used)
		die("too many records: all have to fit into one page of %d bytes", PAGE);
	log->current = lsn_at(log, log->used);
	log->last_length = length;
	log->used += LOG_RECORD_HEAD_SZ + length;
	record->this_lsn = cpu_to_sle64(log->current);
	record->client_data_length = cpu_to_le32(length);
	record->record_type = type;
	return record;
}

/* At most 16 numbers, with commas between. */
static int parse_list(const char *text, s64 *number)
{
	int count = 0;

	while (count < 16) {
		char word[32];
		const size_t length = strcspn(text, ",");

		if (length >= sizeof(word))
			break;
		memcpy(word, text, length);
		word[length] = '\0';
		number[count++] = parse_number(word, "record");
		if (!text[length])
			return count;
		text += length + 1;
	}
	die("record=%s: not 1 to 16 numbers", text);
}

/*
 * REDO,UNDO,INDEX,LCN,…: what the log would do again and take back, and where: INDEX counts
 * 512 bytes from the start of the first cluster.
 */
static void add_record(struct log *log, const char *text)
{
	s64 number[16] = { 0 };
	const int lcns = parse_list(text, number) - 3;
	const int listed = lcns > 0 ? lcns : 0;
	const u32 length = RECORD_BYTES - LOG_RECORD_HEAD_SZ + listed * sizeof(leLCN);
	LOG_RECORD *record = append_record(log, length, LOG_STANDARD);

	record->client_previous_lsn = cpu_to_sle64(log->previous);
	record->client_undo_next_lsn = cpu_to_sle64(log->previous);
	log->previous = log->current;
	record->transaction_id = cpu_to_le32(TRANSACTION);
	record->redo_operation = cpu_to_le16(number[0]);
	record->undo_operation = cpu_to_le16(number[1]);
	record->redo_offset = cpu_to_le16(length);
	record->undo_offset = cpu_to_le16(length);
	record->cluster_index = cpu_to_le16(number[2]);
	record->attribute_flags = ACTS_ON_MFT;
	record->lcns_to_follow = cpu_to_le16(listed);
	for (int i = 0; i < listed; i++)
		record->lcn_list[i] = cpu_to_sle64(number[3 + i]);
}

static void build_records(struct log *log, const struct options *opts)
{
	log->records = forge_alloc(PAGE);
	log->used = RECORDS_AT;
	append_record(log, CHECKPOINT_BYTES, LOG_CHECKPOINT);
	log->oldest = log->current;
	for (int i = 0; i < opts->count; i++)
		if (!strncmp(opts->word[i], "record=", 7))
			add_record(log, opts->word[i] + 7);
}

/* ---- pages ---- */

static void protect(void *page)
{
	if (ntfs_mst_pre_write_fixup(page, PAGE))
		die_errno("cannot protect a page of $LogFile");
}

static void finish_record_page(const struct log *log)
{
	RECORD_PAGE_HEADER *page = (RECORD_PAGE_HEADER *)log->records;

	page->magic = magic_RCRD;
	page->usa_ofs = cpu_to_le16(sizeof(*page));
	page->usa_count = cpu_to_le16(USA_COUNT);
	page->copy.last_lsn = cpu_to_sle64(log->current);
	page->flags = const_cpu_to_le32(1); /* a record ends in this page */
	page->page_count = const_cpu_to_le16(1);
	page->page_position = const_cpu_to_le16(1);
	page->next_record_offset = cpu_to_le16(log->used);
	page->last_end_lsn = cpu_to_sle64(log->current);
	protect(page);
}

static void fill_client(LOG_CLIENT_RECORD *client, const struct log *log)
{
	static const char name[] = "NTFS";

	client->oldest_lsn = cpu_to_sle64(log->oldest);
	client->client_restart_lsn = cpu_to_sle64(log->oldest);
	client->prev_client = LOGFILE_NO_CLIENT;
	client->next_client = LOGFILE_NO_CLIENT;
	client->client_name_length = cpu_to_le32(2 * strlen(name));
	for (size_t i = 0; i < strlen(name); i++)
		client->client_name[i] = cpu_to_le16(name[i]);
}

static void fill_restart_area(RESTART_AREA *area, const struct log *log)
{
	area->current_lsn = cpu_to_sle64(log->current);
	area->log_clients = const_cpu_to_le16(1);
	area->client_free_list = LOGFILE_NO_CLIENT;
	area->client_in_use_list = const_cpu_to_le16(0);
	area->flags = log->clean ? RESTART_VOLUME_IS_CLEAN : const_cpu_to_le16(0);
	area->seq_number_bits = cpu_to_le32(log->seq_bits);
	area->restart_area_length = cpu_to_le16(CLIENTS_AT + sizeof(LOG_CLIENT_RECORD));
	area->client_array_offset = const_cpu_to_le16(CLIENTS_AT);
	area->file_size = cpu_to_sle64(log->size);
	area->last_lsn_data_length = cpu_to_le32(log->last_length);
	area->log_record_header_length = const_cpu_to_le16(LOG_RECORD_HEAD_SZ);
	area->log_page_data_offset = const_cpu_to_le16(RECORDS_AT);
	area->restart_log_open_count = const_cpu_to_le32(1);
}

static RESTART_PAGE_HEADER *restart_page(const struct log *log)
{
	RESTART_PAGE_HEADER *page = forge_alloc(PAGE);
	u8 *area = (u8 *)page + RESTART_AREA_AT;

	page->magic = magic_RSTR;
	page->usa_ofs = const_cpu_to_le16(offsetof(RESTART_PAGE_HEADER, usn));
	page->usa_count = cpu_to_le16(USA_COUNT);
	page->system_page_size = const_cpu_to_le32(PAGE);
	page->log_page_size = const_cpu_to_le32(PAGE);
	page->restart_area_offset = const_cpu_to_le16(RESTART_AREA_AT);
	page->major_ver = log->version_2 ? const_cpu_to_sle16(2) : const_cpu_to_sle16(1);
	page->minor_ver = log->version_2 ? const_cpu_to_sle16(0) : const_cpu_to_sle16(1);
	fill_restart_area((RESTART_AREA *)area, log);
	fill_client((LOG_CLIENT_RECORD *)(area + CLIENTS_AT), log);
	protect(page);
	return page;
}

static void write_page(ntfs_attr *na, s64 page, const void *bytes)
{
	if (ntfs_attr_pwrite(na, page * PAGE, PAGE, bytes) != PAGE)
		die_errno("cannot write page %lld of $LogFile", (long long)page);
}

static void wipe(ntfs_attr *na)
{
	u8 *ones = forge_alloc(PAGE);

	memset(ones, 0xff, PAGE);
	for (s64 page = 0; page < na->data_size / PAGE; page++)
		write_page(na, page, ones);
	free(ones);
}

static void write_log(ntfs_attr *na, struct log *log)
{
	RESTART_PAGE_HEADER *restart = restart_page(log);

	write_page(na, 0, restart);
	write_page(na, 1, restart);
	write_page(na, log->first_page, log->records);
	free(restart);
	free(log->records);
}

/* ---- the verb ---- */

static int bits_of(u64 number)
{
	return number ? 64 - __builtin_clzll(number) : 0;
}

static void plan_log(struct log *log, const ntfs_attr *na, bool version_2, bool clean)
{
	log->version_2 = version_2;
	log->clean = clean;
	log->size = na->data_size & ~(s64)(PAGE - 1);
	log->seq_bits = 67 - bits_of(log->size);
	log->first_page = version_2 ? 34 : 4;
	if (log->size < (2 + MinLogRecordPages) * PAGE)
		die("$LogFile has only %lld bytes", (long long)log->size);
}

/* walk=broken: current_lsn names a record that is not there. */
static void break_walk(struct log *log)
{
	log->current = lsn_at(log, log->used);
}

void verb_logfile(struct forge *forge)
{
	static const char *const versions[] = { "1.1", "2.0", NULL };
	static const char *const states[] = { "clean", "inuse", "reset", NULL };
	static const char *const walks[] = { "whole", "broken", NULL };
	const int version = choose(forge->argv[0], "VERSION", versions);
	const int state = choose(forge->argv[1], "FLAGS", states);
	const int walk = word_option(&forge->opts, "walk", walks);
	ntfs_inode *ni = ntfs_inode_open(forge->vol, FILE_LogFile);
	struct log log = { 0 };
	ntfs_attr *na;

	if (!ni)
		die_errno("cannot open $LogFile");
	na = data_open(ni, NULL);
	plan_log(&log, na, version == 1, state == 0);
	build_records(&log, &forge->opts);
	finish_record_page(&log);
	if (walk)
		break_walk(&log);
	wipe(na);
	if (state != 2)
		write_log(na, &log);
	stream_done(na, ni);
}
