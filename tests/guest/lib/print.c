#include "lib.h"
#include "platform.h"

static void print_string(const char *s)
{
	while (*s)
		console_put(*s++);
}

static void print_number(u64 value, int base)
{
	char text[24], *p = text + sizeof(text);

	*--p = 0;
	do {
		*--p = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	print_string(p);
}

void vprint(const char *format, va_list args)
{
	for (; *format; format++) {
		if (*format != '%') {
			console_put(*format);
			continue;
		}
		switch (*++format) {
		case 's': print_string(va_arg(args, const char *)); break;
		case 'c': console_put(va_arg(args, long)); break;
		case 'x': print_number(va_arg(args, u64), 16); break;
		case 'u':
		case 'd': print_number(va_arg(args, u64), 10); break;
		}
	}
}

void print(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprint(format, args);
	va_end(args);
}
