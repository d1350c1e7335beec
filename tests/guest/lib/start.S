/* Entry, exit and the switches of MSR[LE] a C compiler cannot make. Assembled in both orders. */
#include "layout.h"

#ifdef __LITTLE_ENDIAN__
	.macro	other word
	.byte	(\word) >> 24, ((\word) >> 16) & 0xff, ((\word) >> 8) & 0xff, (\word) & 0xff
	.endm
#else
	.macro	other word
	.byte	(\word) & 0xff, ((\word) >> 8) & 0xff, ((\word) >> 16) & 0xff, (\word) >> 24
	.endm
#endif
#define MTSRR0(reg) (0x7c1a03a6 | (reg) << 21)
#define MTSRR1(reg) (0x7c1b03a6 | (reg) << 21)
#define RFID 0x4c000024
#define SC1 0x44000022
#define STB_R4_R3 0x98830000	/* stb r4, 0(r3) */
#define STW_R4_R3 0x90830000	/* stw r4, 0(r3) */
#define EIEIO 0x7c0006ac

	.section .text.entry, "ax"
	.globl	payload_entry
payload_entry:
	b	start
	nop
	b	trap
start:
	bl	environment
	lis	4, bss_begin@ha
	addi	4, 4, bss_begin@l
	lis	5, bss_end@ha
	addi	5, 5, bss_end@l
	sub	5, 5, 4
	srdi	5, 5, 3
	mtctr	5
	li	6, 0
1:	std	6, 0(4)
	addi	4, 4, 8
	bdnz	1b
	bl	payload_main
	li	4, STUB_RUN
	mfmsr	5
	clrrdi	5, 5, 1
	mtsrr0	4
	mtsrr1	5
	rfid

trap:
	bl	environment
	bl	exception
	b	.

environment:
	lis	2, .TOC.@ha
	addi	2, 2, .TOC.@l
	lis	1, stack_top@ha
	addi	1, 1, stack_top@l
	blr

	.text
/*
 * Runs BODY with MSR[LE] toggled and comes back. BODY may clobber everything a hypercall does,
 * so what the way back needs is in r30 and r31.
 */
	.macro	toggled body:vararg
	std	30, -16(1)
	std	31, -8(1)
	mflr	0
	std	0, 16(1)
	bcl	20, 31, 1f
1:	mflr	12
	addi	11, 12, 2f - 1b
	addi	30, 12, 3f - 1b
	mfmsr	31
	xori	12, 31, 1
	mtsrr0	11
	mtsrr1	12
	rfid
2:	\body
	other	MTSRR0(30)
	other	MTSRR1(31)
	other	RFID
3:	ld	0, 16(1)
	mtlr	0
	ld	30, -16(1)
	ld	31, -8(1)
	.endm

/* long hcall_toggled(number, r4, r5, r6): a hypercall made in the other byte order. */
	.globl	hcall_toggled
hcall_toggled:
	toggled	other SC1
	blr

/* void store8_toggled(address, value), store32_toggled: MMIO stores made in the other order. */
	.globl	store8_toggled
store8_toggled:
	toggled	other STB_R4_R3
	blr

	.globl	store32_toggled
store32_toggled:
	toggled	other STW_R4_R3
	blr

/* void set_translation(on): MSR[IR,DR] := on. Code and stack are mapped 1:1. */
	.globl	set_translation
set_translation:
	mfmsr	4
	li	5, 0x30
	andc	4, 4, 5
	cmpwi	3, 0
	beq	1f
	or	4, 4, 5
1:	mflr	5
	mtsrr0	5
	mtsrr1	4
	rfid
