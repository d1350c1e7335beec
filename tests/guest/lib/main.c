/* Runs the test the parameters name, or all if they name none, in each byte order of `order=be,le,...`. */
#include "check.h"
#include "layout.h"
#include "platform.h"

extern const struct test tests_begin[], tests_end[];
int phase;

static char cell[96];
static unsigned int checks, failures;

static char *append(char *to, const char *text)
{
	while (*text && to < cell + sizeof(cell) - 1)
		*to++ = *text++;
	*to = 0;
	return to;
}

/* Words only: %s is all a cell's name needs. */
void cell_begin(const char *format, ...)
{
	char *to = cell;
	va_list args;

	va_start(args, format);
	for (; *format; format++) {
		if (format[0] == '%' && format[1] == 's') {
			to = append(to, va_arg(args, const char *));
			format++;
		} else {
			to = append(to, (char[]){ *format, 0 });
		}
	}
	va_end(args);
	checks = failures = 0;
}

static void result(const char *word)
{
	print("%s: %u %s %s", word, phase, CPU_LITTLE ? "le" : "be", cell);
}

bool cell_end(void)
{
	if (!failures) {
		result("PASS");
		print(" checks=%u\n", checks);
	}
	return !failures;
}

static void failed(void)
{
	failures++;
	*(volatile u8 *)BOOT_FAILED = 1;
	result("FAIL");
	print(": ");
}

bool check(bool holds, const char *format, ...)
{
	va_list args;

	checks++;
	if (holds)
		return true;
	failed();
	va_start(args, format);
	vprint(format, args);
	va_end(args);
	print("\n");
	return false;
}

bool check_equal(u64 actual, u64 expected, const char *format, ...)
{
	va_list args;

	checks++;
	if (actual == expected)
		return true;
	failed();
	va_start(args, format);
	vprint(format, args);
	va_end(args);
	print(" is 0x%x, not 0x%x\n", actual, expected);
	return false;
}

void exception(u64 vector, u64 srr0, u64 srr1, u64 dar, u64 dsisr, u64 lr, u64 r3);

void exception(u64 vector, u64 srr0, u64 srr1, u64 dar, u64 dsisr, u64 lr, u64 r3)
{
	mmu_off();
	print("EXCEPTION: %s vector=%x srr0=%x srr1=%x dar=%x dsisr=%x lr=%x r3=%x\n",
	      CPU_LITTLE ? "le" : "be", vector, srr0, srr1, dar, dsisr, lr, r3);
	power_off(3);
}

static void start_translation(const void *fdt)
{
	enum translation kind = parameter_is("mmu", "hash") ? TRANSLATION_HASH :
		parameter_is("mmu", "radix") ? TRANSLATION_RADIX : TRANSLATION_OFF;

	mmu_init(kind);
	mmu_map_memory((u64)fdt, fdt_size());
}

static void run_tests(void)
{
	char wanted[32];
	bool all = !parameter("test", wanted, sizeof(wanted)), found = false;

	for (const struct test *test = tests_begin; test < tests_end; test++) {
		if (!all && !streq(wanted, test->name))
			continue;
		found = true;
		test->run();
	}
	if (!found) {
		cell_begin("image");
		check(false, "there is such a test");
	}
}

int payload_main(const void *fdt);

/* Returns the payload that runs next: 0 big-endian, 1 little-endian. */
int payload_main(const void *fdt)
{
	volatile u8 *done = (volatile u8 *)BOOT_PHASE;
	char order[64];

	platform_init(fdt);
	parameters_init();
	if (!parameter("order", order, sizeof(order)))
		memcpy(order, "be,le", sizeof("be,le"));
	phase = *done;
	const char *mine = order + 3 * phase;
	if (3ul * phase >= strlen(order)) {
		bool failed = *(volatile u8 *)BOOT_FAILED;
		print("DONE: %s\n", failed ? "failed" : "passed");
		power_off(failed);
	}
	bool little = starts_with(mine, "le");
	if (little == CPU_LITTLE) {
		start_translation(fdt);
		run_tests();
		mmu_off();
		++*done;
		return CPU_LITTLE;
	}
	return little;
}
