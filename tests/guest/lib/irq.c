/* XICS by hypercalls and RTAS (LoPAR 7.3.10 and 14.8): one server, polled. */
#include "platform.h"

static void set_priority(u32 irq, u32 priority)
{
	u32 input[3] = { irq, 0, priority };

	rtas("ibm,set-xive", 3, input, 1, NULL);
}

void irq_enable(u32 irq)
{
	hcall(NULL, H_CPPR, 0xff, 0, 0, 0, 0);
	set_priority(irq, 5);
}

void irq_disable(u32 irq)
{
	set_priority(irq, 0xff);
}

u32 irq_poll(void)
{
	u64 xirr = 0;

	hcall(&xirr, H_XIRR, 0xff, 0, 0, 0, 0);
	return xirr & 0xffffff;
}

void irq_done(u32 irq)
{
	hcall(NULL, H_EOI, 0xff000000ul | irq, 0, 0, 0, 0);
}

void irq_drain(void)
{
	u32 irq;

	for (int limit = 64; limit && (irq = irq_poll()); limit--)
		irq_done(irq);
}
