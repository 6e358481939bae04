/* probe.h: what this launcher and this kernel are, as text for the Python side. */
#ifndef PROBE_H
#define PROBE_H

int probe_dump_abi(void); /* the plan's constants, one "name value" a line */
int probe_kernel(void);	  /* kernel features, one "name value" a line */

#endif
