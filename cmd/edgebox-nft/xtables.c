// The part of libxtables that libnftables calls to translate rules which
// iptables-nft has made. libxtables loads plugins of the host; here none is found,
// so such rules are listed untranslated.

#include <stddef.h>

int xtables_init_all(void *globals, unsigned char family)
{
	(void)globals, (void)family;
	return 0;
}

void xtables_set_nfproto(unsigned char family) { (void)family; }

void *xtables_find_match(const char *name, int load, void *matches)
{
	(void)name, (void)load, (void)matches;
	return NULL;
}

void *xtables_find_target(const char *name, int load)
{
	(void)name, (void)load;
	return NULL;
}

void *xt_xlate_alloc(size_t size)
{
	(void)size;
	return NULL;
}

void xt_xlate_free(void *xlate) { (void)xlate; }

const char *xt_xlate_get(void *xlate)
{
	(void)xlate;
	return "";
}
