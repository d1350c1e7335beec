#include "pci.h"

#include "platform.h"

enum { COMMAND = 4, CLASS_REVISION = 8, BAR0 = 0x10, SUBSYSTEM = 0x2e, CAPABILITIES = 0x34, PIN = 0x3d };
enum { SPACE_IO = 1, SPACE_MEM32 = 2, SPACE_MEM64 = 3 };

#define MAX_DEVICES 64

struct window {
	u64 bus, cpu, size, used;	/* bus and CPU address of the first byte */
};

static struct window windows[4];
static struct pci_device devices[MAX_DEVICES];

u32 pci_read(const struct pci_device *device, int offset, int size)
{
	u32 input[4] = { device->address | offset, device->buid >> 32, device->buid, size };
	u32 value = ~0u;

	if (rtas("ibm,read-pci-config", 4, input, 2, &value))
		return ~0u;
	return value;
}

void pci_write(const struct pci_device *device, int offset, int size, u32 value)
{
	u32 input[5] = { device->address | offset, device->buid >> 32, device->buid, size, value };

	rtas("ibm,write-pci-config", 5, input, 1, NULL);
}

int pci_capability(const struct pci_device *device, int id, int after)
{
	int at = after ? pci_read(device, after + 1, 1) : pci_read(device, CAPABILITIES, 1);

	for (int limit = 48; at && limit; limit--) {
		if ((int)pci_read(device, at, 1) == id)
			return at;
		at = pci_read(device, at + 1, 1);
	}
	return 0;
}

/* Sizes one BAR and gives it an address. Returns the number of BARs it takes. */
static int assign_bar(struct pci_device *device, int index)
{
	int at = BAR0 + 4 * index;

	pci_write(device, at, 4, ~0u);
	u32 low = pci_read(device, at, 4);
	bool io = low & 1, wide = !io && (low & 6) == 4;
	u32 size = -(low & (io ? ~3u : ~15u));
	if (!low)
		return 1;
	if (io)
		size &= 0xffff;
	struct window *window = &windows[io ? SPACE_IO : SPACE_MEM32];
	if (wide && windows[SPACE_MEM64].size)
		window = &windows[SPACE_MEM64];
	/* an I/O BAR at 0 counts as unassigned */
	u64 start = (window->used + size + size - 1) & -(u64)size;
	if (start + size > window->size)
		return wide ? 2 : 1;
	window->used = start + size;
	u64 bus = window->bus + start;
	pci_write(device, at, 4, bus);
	if (wide)
		pci_write(device, at + 4, 4, bus >> 32);
	device->bar[index] = window->cpu + start;
	mmu_map_io(device->bar[index], size);
	return wide ? 2 : 1;
}

static u32 find_lsi(int bridge, const struct pci_device *device)
{
	int length = 0;
	const u32 *map = fdt_property(bridge, "interrupt-map", &length);
	const u32 *mask = fdt_property(bridge, "interrupt-map-mask", NULL);
	u32 pin = pci_read(device, PIN, 1);

	if (!map || !mask || !pin)
		return 0;
	for (int i = 0; i < length / 28; i++, map += 7)
		if (!((be32(map[0]) ^ device->address) & be32(mask[0])) && be32(map[3]) == pin)
			return be32(map[5]);
	return 0;
}

static void probe(int bridge, struct pci_device *device)
{
	u32 class_revision = pci_read(device, CLASS_REVISION, 4);

	device->id = pci_read(device, 2, 2);
	device->revision = class_revision;
	device->subsystem = pci_read(device, SUBSYSTEM, 2);
	device->lsi = find_lsi(bridge, device);
	pci_write(device, COMMAND, 2, 0);	/* nothing decodes while BARs move */
	for (int bar = 0; bar < 6;)
		bar += assign_bar(device, bar);
	pci_write(device, COMMAND, 2, 7);	/* I/O, memory, bus master */
}

static void read_windows(int bridge)
{
	int length;
	const u32 *range = fdt_property(bridge, "ranges", &length);

	memset(windows, 0, sizeof(windows));
	for (int i = 0; i < length / 28; i++, range += 7) {
		struct window *window = &windows[(be32(range[0]) >> 24) & 3];
		window->bus = fdt_cells(range + 1, 2);
		window->cpu = fdt_cells(range + 3, 2);
		window->size = fdt_cells(range + 5, 2);
	}
}

struct pci_device *pci_scan(int *count)
{
	int bridge = FDT_NONE;

	*count = 0;
	while ((bridge = fdt_find("IBM,Logical_PHB", bridge)) != FDT_NONE) {
		read_windows(bridge);
		u64 buid = fdt_cells(fdt_property(bridge, "reg", NULL), 2);
		for (u32 slot = 0; slot < 32 && *count < MAX_DEVICES; slot++) {
			struct pci_device *device = &devices[*count];
			*device = (struct pci_device){ .address = slot << 11, .buid = buid };
			device->vendor = pci_read(device, 0, 2);
			if (device->vendor == 0xffff)
				continue;
			++*count;
			probe(bridge, device);
		}
	}
	return devices;
}

/* ibm,change-msi: the platform writes the messages; the sources follow one another. */
static int change_msi(const struct pci_device *device, int function, int count)
{
	u32 input[6] = { device->address, device->buid >> 32, device->buid, function, count, 0 };
	u32 output[2] = { 0, 0 };

	return rtas("ibm,change-msi", 6, input, 3, output) ? 0 : (int)output[0];
}

int pci_msix_on(struct pci_device *device, int vectors)
{
	u32 source[2];
	int at = pci_capability(device, PCI_CAP_MSIX, 0);

	if (!at)
		return 0;
	/* asked for too many, the platform names the limit and assigns none */
	int got = change_msi(device, 4, vectors);
	if (got > 0 && got < vectors)
		got = change_msi(device, 4, vectors = got);
	if (got != vectors)
		return 0;
	u32 input[4] = { device->address, device->buid >> 32, device->buid, 0 };
	if (rtas("ibm,query-interrupt-source-number", 4, input, 3, source))
		return 0;
	device->msi = source[0];
	/*
	 * The table's mask bits are ours. They are little-endian like the rest of it, and set after
	 * a reset.
	 */
	u32 table = pci_read(device, at + 4, 4);
	u64 entries = device->bar[table & 7] + (table & ~7u);
	for (int i = 0; i < vectors; i++)
		le_write(entries + 16 * i + 12, 4, 0);
	pci_write(device, at + 2, 2, 0x8000);
	return vectors;
}

void pci_msix_off(struct pci_device *device)
{
	int at = pci_capability(device, PCI_CAP_MSIX, 0);

	if (!device->msi)
		return;
	pci_write(device, at + 2, 2, 0);
	change_msi(device, 4, 0);
	device->msi = 0;
}
