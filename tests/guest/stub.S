/*
 * The big-endian start of every image: loaded at 0, entered at 0x100 in real mode with r3 = device
 * tree. It starts the payloads and turns exceptions, which arrive big-endian because LPCR[ILE] is
 * never set, into calls of the running payload. rfid does each switch of MSR[LE].
 */
#include "layout.h"

	.macro	vector number
	.org	\number
	mtsprg	0, 3
	li	3, \number
	b	exception
	.endm

	.text
	.globl	_start
	.org	0
	.ascii	"PPC64EMU"
	.org	0x100
_start:
	b	entry
	vector	0x200
	vector	0x300
	vector	0x380
	vector	0x400
	vector	0x480
	vector	0x500
	vector	0x600
	vector	0x700
	vector	0x800
	vector	0x900
	vector	0xa00
	vector	0xc00
	vector	0xd00
	vector	0xe00
	vector	0xe40
	vector	0xf00
	vector	0xf20
	vector	0xf40
	vector	0xf60
	vector	0xf80

	.org	0x2000
entry:
	std	3, BOOT_FDT(0)
	li	3, 0
	b	run

	.org	STUB_RUN
run:
	stb	3, BOOT_CURRENT(0)
	li	9, 0			/* offset of the payload's main entry */
	bl	locate
	ld	3, BOOT_FDT(0)
	rfid

/*
 * SRR0 = running payload + r9, SRR1 = MSR in the payload's byte order: SF, which QEMU leaves off at
 * the start, ME and RI, in real mode. Clobbers r10-r12.
 */
locate:
	lis	10, BE_BASE >> 16
	li	11, 1
	sldi	11, 11, 63
	ori	11, 11, 0x1002
	lbz	12, BOOT_CURRENT(0)
	cmpwi	12, 0
	beq	1f
	lis	10, LE_BASE >> 16
	ori	11, 11, 1
1:	add	10, 10, 9
	mtsrr0	10
	mtsrr1	11
	blr

/* Enters the payload at + 8 with the vector in r3, SRR0, SRR1, DAR, DSISR, LR and r3 in r4-r9. */
exception:
	mfsrr0	4
	mfsrr1	5
	mfdar	6
	mfdsisr	7
	mflr	8
	li	9, 8
	bl	locate
	mfsprg	9, 0
	rfid

	.org	BE_BASE - 1
	.byte	0
