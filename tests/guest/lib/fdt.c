/* Devicetree Specification 0.4, chapter 5. The tree is trusted: the platform wrote it. */
#include "lib.h"

enum { BEGIN_NODE = 1, END_NODE, PROP, NOP, END = 9 };

static const u32 *header;
static const u8 *structure, *strings;

static u32 token(int at)
{
	return be32(*(const u32 *)(structure + at));
}

void fdt_init(const void *fdt)
{
	header = fdt;
	structure = (const u8 *)fdt + be32(header[2]);
	strings = (const u8 *)fdt + be32(header[3]);
}

u32 fdt_size(void)
{
	return be32(header[1]);
}

/* The offset of the token after the one at `at`. */
static int step(int at)
{
	int size = 4;

	if (token(at) == BEGIN_NODE)
		size += strlen((const char *)structure + at + 4) + 1;
	else if (token(at) == PROP)
		size += 8 + token(at + 4);
	return (at + size + 3) & ~3;
}

int fdt_next(int node)
{
	int at = node == FDT_NONE ? 0 : step(node);

	while (token(at) != BEGIN_NODE) {
		if (token(at) == END)
			return FDT_NONE;
		at = step(at);
	}
	return at;
}

const char *fdt_name(int node)
{
	return (const char *)structure + node + 4;
}

const void *fdt_property(int node, const char *name, int *length)
{
	for (int at = step(node); token(at) == PROP || token(at) == NOP; at = step(at)) {
		if (token(at) == NOP || !streq((const char *)strings + token(at + 8), name))
			continue;
		if (length)
			*length = token(at + 4);
		return structure + at + 12;
	}
	return NULL;
}

bool fdt_compatible(int node, const char *name)
{
	int length;
	const char *s = fdt_property(node, "compatible", &length);

	for (int at = 0; s && at < length; at += strlen(s + at) + 1)
		if (streq(s + at, name))
			return true;
	return false;
}

int fdt_find(const char *compatible, int after)
{
	int node = after;

	while ((node = fdt_next(node)) != FDT_NONE)
		if (fdt_compatible(node, compatible))
			return node;
	return FDT_NONE;
}

int fdt_named(const char *name)
{
	int node = FDT_NONE;

	while ((node = fdt_next(node)) != FDT_NONE)
		if (streq(fdt_name(node), name))
			return node;
	return FDT_NONE;
}

u64 fdt_cells(const void *cell, int count)
{
	u64 value = 0;

	for (const u32 *p = cell; count--; p++)
		value = value << 32 | be32(*p);
	return value;
}
