#include "layout.h"
#include "lib.h"

static char text[512];

void parameters_init(void)
{
	int chosen = fdt_named("chosen");
	const char *s = chosen == FDT_NONE ? NULL : fdt_property(chosen, "bootargs", NULL);

	if (!s || !*s)
		s = (const char *)PARAMETERS;
	for (size_t i = 0; s[i] && i < sizeof(text) - 1; i++)
		text[i] = s[i];
}

bool parameter(const char *name, char *value, size_t size)
{
	size_t length = strlen(name), n = 0;

	value[0] = 0;
	for (const char *s = text; *s; s++) {
		if ((s != text && s[-1] != ' ') || !starts_with(s, name) || s[length] != '=')
			continue;
		for (s += length + 1; *s && *s != ' ' && n < size - 1; n++)
			value[n] = *s++;
		value[n] = 0;
		return true;
	}
	return false;
}

bool parameter_is(const char *name, const char *value)
{
	char actual[32];

	return parameter(name, actual, sizeof(actual)) && streq(actual, value);
}
