/* Finds the kernel: /chosen/qemu,boot-kernel is its address and size, 64 bits each. */
#include "lib.h"

u64 rom_kernel(const void *fdt);

u64 rom_kernel(const void *fdt)
{
	fdt_init(fdt);
	int chosen = fdt_named("chosen");
	const void *kernel = chosen == FDT_NONE ? NULL :
		fdt_property(chosen, "qemu,boot-kernel", NULL);

	return kernel ? fdt_cells(kernel, 2) : 0;
}
