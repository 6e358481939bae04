/* expansion.h: a template on its way to a plan; what the files that expand it share. */
#ifndef EXPANSION_H
#define EXPANSION_H

#include "delegated.h"
#include "entries.h"
#include "template.h"

enum { OPS_MAX = 8192, DATA_MAX = PLAN_MAX_SIZE };

struct expansion {
	const struct plan *template;
	const struct facts *facts;
	struct op *ops;
	char *data;
	uint32_t op_count, data_size, groups;
	struct view view;
	struct delegated delegated;
	uint32_t identity; /* who the command will be */
};

/* expansion.c. record: what of the template it is for; a failure has its words. */
_Noreturn void expand_refuse(const struct op *record, int reason);
/* Data, 8-aligned, and more of what was added last; the offset. */
uint32_t expand_add(struct expansion *e, const struct op *record, const char *bytes, size_t size);
void expand_extend(struct expansion *e, const struct op *record, const char *bytes, size_t size);
/* The record as an op; an op of another code with its words; its data. */
struct op *expand_op(struct expansion *e, const struct op *record);
struct op *expand_made(struct expansion *e, const struct op *record, enum op_code code);
void expand_give(struct expansion *e, const struct op *record, struct op *op, const char *text);
void expand_text(struct expansion *e, const struct op *record, const char *text, char *room, size_t size);
/* A text's placeholders replaced; until the next one is. */
const char *expand_string(struct expansion *e, const struct op *record, const char *text);
void expand_texts(struct expansion *e, const struct op *record, struct op *op);
void expand_label(struct expansion *e, const struct op *record, struct op *op, const char *text);
const struct op *expand_item(const struct expansion *e, enum item_code code);

/* expand_view.c */
void expand_view(struct expansion *e);
void expand_mounts(struct expansion *e);
void expand_path_rules(struct expansion *e);
void expand_chdir(struct expansion *e, const struct op *record);
void expand_check_start(struct expansion *e);

/* expand_fds.c */
void expand_inherited(struct expansion *e);
void expand_place(struct expansion *e, const struct op *record);
void expand_rule(struct expansion *e, const struct op *record);
void expand_varying(struct expansion *e, const struct op *record);
void expand_dropped(struct expansion *e);

/* expand_limits.c */
void expand_cgroup(struct expansion *e);
void expand_limits(struct expansion *e);

/* expand_command.c */
void expand_candidates(struct expansion *e);
void expand_exec(struct expansion *e, const struct op *record);

#endif
