/* MMIO: through hypercalls in a partition's real mode, by load and store everywhere else. */
#include "platform.h"

static bool by_hypercall(void)
{
	return platform_is_pseries() && !mmu_is_on();
}

static u64 load(u64 address, int size)
{
	switch (size) {
	case 1: return *(volatile u8 *)address;
	case 2: return *(volatile u16 *)address;
	case 4: return *(volatile u32 *)address;
	default: return *(volatile u64 *)address;
	}
}

static void store(u64 address, int size, u64 value)
{
	switch (size) {
	case 1: *(volatile u8 *)address = value; break;
	case 2: *(volatile u16 *)address = value; break;
	case 4: *(volatile u32 *)address = value; break;
	default: *(volatile u64 *)address = value; break;
	}
}

u64 bus_read(u64 address, int size)
{
	u64 value = 0;

	barrier();
	if (by_hypercall())
		hcall(&value, H_LOGICAL_CI_LOAD, size, address, 0, 0, 0);
	else
		value = in_order(false, load(address, size), size);
	barrier();
	return value;
}

void bus_write(u64 address, int size, u64 value)
{
	barrier();
	if (by_hypercall())
		hcall(NULL, H_LOGICAL_CI_STORE, size, address, value, 0, 0);
	else
		store(address, size, in_order(false, value, size));
	barrier();
}

void bus_write_toggled(u64 address, int size, u64 value)
{
	barrier();
	if (by_hypercall())
		hcall_toggled(H_LOGICAL_CI_STORE, size, address, value);
	else if (size == 1)
		store8_toggled(address, value);
	else
		store32_toggled(address, in_order(true, value, size));
	barrier();
}
