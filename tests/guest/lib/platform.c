#include "platform.h"

static bool pseries;
static u32 terminal;			/* unit address of the vty */
static u64 board_console, board_exit, board_lines;	/* registers of virtmmio */

static u64 registers(const char *compatible)
{
	int node = fdt_find(compatible, FDT_NONE);

	return node == FDT_NONE ? 0 : fdt_cells(fdt_property(node, "reg", NULL), 2);
}

void platform_init(const void *fdt)
{
	fdt_init(fdt);
	board_console = registers("ppc64emu,console");
	board_exit = registers("ppc64emu,test-exit");
	board_lines = registers("ppc64emu,intc");
	pseries = !board_console;
	int vty = fdt_find("hvterm1", FDT_NONE);
	if (vty != FDT_NONE)
		terminal = fdt_cells(fdt_property(vty, "reg", NULL), 1);
}

bool board_line(u32 line)
{
	/* a pending and an enabled register for each 32 lines, big-endian */
	return bus_read(board_lines + 8 * (line / 32), 4) >> (line % 32) & 1;
}

bool platform_is_pseries(void)
{
	return pseries;
}

/* One line at a time: a hypercall carries 16 characters. */
static void terminal_put(char c)
{
	static u8 line[16];
	static unsigned int used;

	line[used++] = c;
	if (used < sizeof(line) && c != '\n')
		return;
	u64 words[2] = { 0, 0 };
	memcpy(words, line, used);
	while (hcall(NULL, H_PUT_TERM_CHAR, terminal, used, be64(words[0]), be64(words[1]), 0) == 1)
		;			/* H_BUSY */
	used = 0;
}

void console_put(char c)
{
	if (pseries)
		terminal_put(c);
	else
		bus_write(board_console, 1, c);
}

/* Many bytes at once, where the platform has a way. */
void console_write(const char *text, u32 size)
{
	while (size) {
		u32 count = size < 16 ? size : 16;
		u64 words[2] = { 0, 0 };

		if (!pseries) {
			bus_write(board_console, 1, *text);
			count = 1;
		} else {
			memcpy(words, text, count);
			while (hcall(NULL, H_PUT_TERM_CHAR, terminal, count, be64(words[0]), be64(words[1]),
				     0) == 1)
				;		/* H_BUSY */
		}
		text += count;
		size -= count;
	}
}

void power_off(int status)
{
	u32 any[2] = { ~0u, ~0u };

	if (pseries)
		rtas("power-off", 2, any, 1, NULL);
	else
		bus_write(board_exit, 4, status);
	for (;;)
		;
}

void test_exit(int status)
{
	if (pseries)
		hcall(NULL, H_TEST_EXIT, status, 0, 0, 0, 0);
	power_off(status);
}

void machine_check(void)
{
	u64 msr;

	__asm__ volatile("mfmsr %0" : "=r"(msr));
	__asm__ volatile("mtmsrd %0" :: "r"(msr & ~0x1000ul));
	*(volatile u64 *)0x7000000000ul = 0;	/* no RAM and no device there */
}

long hcall(u64 *out, u64 number, u64 a4, u64 a5, u64 a6, u64 a7, u64 a8)
{
	register u64 r3 __asm__("r3") = number;
	register u64 r4 __asm__("r4") = a4;
	register u64 r5 __asm__("r5") = a5;
	register u64 r6 __asm__("r6") = a6;
	register u64 r7 __asm__("r7") = a7;
	register u64 r8 __asm__("r8") = a8;

	__asm__ volatile("sc 1"
		: "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7), "+r"(r8)
		:: "r0", "r9", "r10", "r11", "r12", "ctr", "xer", "cr0", "cr1", "cr5", "cr6", "cr7",
		   "memory");
	if (out)
		*out = r4;
	return r3;
}

int rtas(const char *service, int inputs, const u32 *input, int outputs, u32 *result)
{
	static u32 arguments[16] __attribute__((aligned(64)));
	int node = fdt_named("rtas");
	const void *token = node == FDT_NONE ? NULL : fdt_property(node, service, NULL);

	if (!token)
		return -1;
	arguments[0] = be32(fdt_cells(token, 1));
	arguments[1] = be32(inputs);
	arguments[2] = be32(outputs);
	for (int i = 0; i < inputs; i++)
		arguments[3 + i] = be32(input[i]);
	hcall(NULL, H_RTAS, (u64)arguments, 0, 0, 0, 0);
	for (int i = 1; i < outputs; i++)
		result[i - 1] = be32(arguments[3 + inputs + i]);
	return be32(arguments[3 + inputs]);
}
