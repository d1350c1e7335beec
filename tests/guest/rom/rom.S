/* The smallest firmware: entered at 0x100 with r3 = device tree, it starts the kernel loaded. */
	.text
	.globl	_start
	.org	0
	.ascii	"TESTROM"
	.org	0x100
_start:
	li	1, 0x4000		/* 16 KiB are enough for code and stack */
	stdu	1, -128(1)
	lis	2, .TOC.@ha
	addi	2, 2, .TOC.@l
	mr	31, 3
	bl	rom_kernel
	nop
	cmpdi	3, 0
	beq	.			/* there is none: nothing to do */
	mtctr	3
	mr	3, 31
	li	5, 0			/* no Open Firmware client interface */
	bctr
