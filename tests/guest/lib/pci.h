/* PCI behind a pseries host bridge: enumeration, BAR assignment, capabilities, MSI-X. */
#ifndef PCI_H
#define PCI_H

#include "lib.h"

#define PCI_CAP_MSIX 0x11

struct pci_device {
	u32 address;			/* bus << 16 | device << 11 | function << 8 */
	u64 buid;
	u16 vendor, id, subsystem;
	u8 revision;
	u64 bar[6];			/* CPU addresses, 0 if there is none */
	u32 lsi;			/* interrupt source of INTx, 0 if there is none */
	u32 msi;			/* first of the MSI-X sources, 0 while off */
};

/* All devices of all host bridges, BARs assigned and decoding enabled; *count of them. */
struct pci_device *pci_scan(int *count);
u32 pci_read(const struct pci_device *device, int offset, int size);
void pci_write(const struct pci_device *device, int offset, int size, u32 value);
/* Offset of the next capability of that id after `after` (0: the first); 0 if there is none. */
int pci_capability(const struct pci_device *device, int id, int after);
/* Returns the number of vectors got, at most `vectors`; 0 if none. */
int pci_msix_on(struct pci_device *device, int vectors);
void pci_msix_off(struct pci_device *device);

#endif
