#include "layout.h"
#include "lib.h"

void *memset(void *to, int byte, size_t count)
{
	for (u8 *p = to; count--; p++)
		*p = byte;
	return to;
}

void *memcpy(void *to, const void *from, size_t count)
{
	u8 *d = to;

	for (const u8 *s = from; count--;)
		*d++ = *s++;
	return to;
}

int memcmp(const void *a, const void *b, size_t count)
{
	const u8 *x = a, *y = b;

	for (; count--; x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

bool starts_with(const char *s, const char *prefix)
{
	return memcmp(s, prefix, strlen(prefix)) == 0;
}

bool streq(const char *a, const char *b)
{
	return strlen(a) == strlen(b) && starts_with(a, b);
}

u64 parse_number(const char *s)
{
	u64 value = 0;
	int base = 10;

	if (starts_with(s, "0x")) {
		base = 16;
		s += 2;
	}
	for (; *s; s++) {
		int digit = *s <= '9' ? *s - '0' : (*s | 0x20) - 'a' + 10;

		if (digit < 0 || digit >= base)
			break;
		value = value * base + digit;
	}
	return value;
}

static u64 heap = HEAP_BASE;

void heap_reset(void)
{
	heap = HEAP_BASE;
}

void *alloc(size_t size, size_t align)
{
	heap = (heap + align - 1) & -align;
	void *p = (void *)heap;

	heap += size;
	if (heap > HEAP_END)
		__builtin_trap();
	return memset(p, 0, size);
}

u64 timebase(void)
{
	u64 value;

	__asm__ volatile("mftb %0" : "=r"(value));
	return value;
}
