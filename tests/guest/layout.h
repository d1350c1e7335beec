/* Where things are in guest memory; shared by the stub, the payloads and the linker script. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define PARAMETERS 0x10		/* NUL-terminated text, written by the builder */
#define PARAMETERS_SIZE 0xf0
#define STUB_RUN 0x2100		/* r3 = payload to run: 0 big-endian, 1 little-endian */
#define BOOT_FDT 0x2800		/* the stub's: address of the device tree, big-endian */
#define BOOT_CURRENT 0x2808	/* the stub's byte: the running payload */
#define BOOT_PHASE 0x2809	/* the payloads' byte: steps of the order done so far */
#define BOOT_FAILED 0x280a	/* the payloads' byte: a check has failed */

#define BE_BASE 0x10000
#define LE_BASE 0x80000
#define HEAP_BASE 0x100000	/* rings and buffers */
#define HEAP_END 0x380000
#define TABLES_BASE 0x380000	/* radix tables */
#define MAPPED_END 0x400000	/* memory mapped 1:1 when translation is on */
#define SPARE_PAGES 0x800000	/* memory the balloon test gives away */

#endif
