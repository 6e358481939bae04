/* view.h: the file view: an empty root in which the declared paths appear. Carried out in the sandbox's init. */
#ifndef VIEW_H
#define VIEW_H

#include "plan.h"

void view_begin(const struct op *op);				/* op ROOT */
void view_mount(const struct plan *plan, const struct op *op); /* op MOUNT */
void view_enter(const struct op *op);				/* op ENTER */
int view_socket(void);						/* of op MANAGER, once it is there; -1 */

#endif
