/*
 * The start of an image for -kernel: entered big-endian in real mode with r3 = device tree, by the
 * emulator or by a firmware. It switches to its own byte order and runs the tests until they end
 * the machine. There are no exception handlers: vectors are the firmware's, or nothing.
 */
#define MTSRR0_R11 0x7d7a03a6
#define MTSRR1_R12 0x7d9b03a6

#ifdef __LITTLE_ENDIAN__
#define IN_ORDER 28			/* offset of the first instruction in our own order */
#else
#define IN_ORDER 24
#endif

	/* an instruction in big-endian order, whatever the order of the rest */
	.macro	big word
	.byte	(\word) >> 24, ((\word) >> 16) & 0xff, ((\word) >> 8) & 0xff, (\word) & 0xff
	.endm

	.section .text.kernel, "ax"
	.globl	kernel_entry
kernel_entry:
	big	0x3d600040		/* lis r11, 0x40: the image's address */
	big	(0x616b0000 + IN_ORDER)	/* ori r11, r11, IN_ORDER */
	big	0x7d8000a6		/* mfmsr r12 */
#ifdef __LITTLE_ENDIAN__
	big	0x618c0001		/* ori r12, r12, LE */
#endif
	big	MTSRR0_R11
	big	MTSRR1_R12
	big	0x4c000024		/* rfid */
	.org	kernel_entry + IN_ORDER
	mr	31, 3
	lis	2, .TOC.@ha
	addi	2, 2, .TOC.@l
	lis	1, stack_top@ha
	addi	1, 1, stack_top@l
1:	mr	3, 31
	bl	payload_main
	nop
	b	1b
