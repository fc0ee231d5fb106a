// The name look-ups that libnftables calls, without the C library's NSS: a static
// executable would load NSS modules of whatever C library the host has, and
// protocol names would need /etc/protocols, which minimal hosts lack. Names of
// hosts and services are not looked up, as no rule of edgebox has one.

#include <arpa/inet.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// From the IANA registry of protocol numbers, with the names of /etc/protocols.
static struct protoent protocols[] = {
	{"icmp", NULL, 1},
	{"igmp", NULL, 2},
	{"ipencap", NULL, 4},
	{"tcp", NULL, 6},
	{"udp", NULL, 17},
	{"dccp", NULL, 33},
	{"ipv6", NULL, 41},
	{"ipv6-route", NULL, 43},
	{"ipv6-frag", NULL, 44},
	{"gre", NULL, 47},
	{"esp", NULL, 50},
	{"ah", NULL, 51},
	{"ipv6-icmp", NULL, 58},
	{"ipv6-nonxt", NULL, 59},
	{"ipv6-opts", NULL, 60},
	{"ospf", NULL, 89},
	{"pim", NULL, 103},
	{"ipcomp", NULL, 108},
	{"vrrp", NULL, 112},
	{"l2tp", NULL, 115},
	{"sctp", NULL, 132},
	{"udplite", NULL, 136},
};

#define END(array) ((array) + sizeof(array) / sizeof(*(array)))

struct protoent *getprotobyname(const char *name)
{
	for (struct protoent *p = protocols; p < END(protocols); p++)
		if (!strcmp(p->p_name, name))
			return p;
	return NULL;
}

struct protoent *getprotobynumber(int number)
{
	for (struct protoent *p = protocols; p < END(protocols); p++)
		if (p->p_proto == number)
			return p;
	return NULL;
}

struct servent *getservbyport(int port, const char *protocol)
{
	(void)port, (void)protocol;
	return NULL;
}

// find returns the first entry of a file like /etc/passwd for which match holds.
#define FIND(path, next, match)              \
	FILE *f = fopen(path, "re");         \
	if (!f)                              \
		return NULL;                 \
	while ((entry = next(f)) && !(match))\
		;                            \
	fclose(f);                           \
	return entry

struct passwd *getpwnam(const char *name)
{
	struct passwd *entry;
	FIND("/etc/passwd", fgetpwent, !strcmp(entry->pw_name, name));
}

struct passwd *getpwuid(uid_t uid)
{
	struct passwd *entry;
	FIND("/etc/passwd", fgetpwent, entry->pw_uid == uid);
}

struct group *getgrnam(const char *name)
{
	struct group *entry;
	FIND("/etc/group", fgetgrent, !strcmp(entry->gr_name, name));
}

struct group *getgrgid(gid_t gid)
{
	struct group *entry;
	FIND("/etc/group", fgetgrent, entry->gr_gid == gid);
}

// getaddrinfo reads a numeric address.
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	int family = hints ? hints->ai_family : AF_UNSPEC;
	if (service)
		return EAI_SERVICE;
	if (!node)
		return EAI_NONAME;

	struct {
		struct addrinfo info;
		union {
			struct sockaddr_in v4;
			struct sockaddr_in6 v6;
		} addr;
	} *found = calloc(1, sizeof(*found));
	if (!found)
		return EAI_MEMORY;
	struct addrinfo *info = &found->info;
	info->ai_addr = (struct sockaddr *)&found->addr;
	if (family != AF_INET6 && inet_pton(AF_INET, node, &found->addr.v4.sin_addr) == 1) {
		info->ai_family = AF_INET;
		info->ai_addrlen = sizeof(found->addr.v4);
	} else if (family != AF_INET && inet_pton(AF_INET6, node, &found->addr.v6.sin6_addr) == 1) {
		info->ai_family = AF_INET6;
		info->ai_addrlen = sizeof(found->addr.v6);
	} else {
		free(found);
		return EAI_NONAME;
	}
	info->ai_addr->sa_family = info->ai_family;
	info->ai_socktype = hints ? hints->ai_socktype : 0;
	info->ai_protocol = hints ? hints->ai_protocol : 0;
	*res = info;
	return 0;
}

void freeaddrinfo(struct addrinfo *info)
{
	free(info);
}

// getnameinfo writes a numeric address.
int getnameinfo(const struct sockaddr *sa, socklen_t len, char *host, socklen_t hostlen, char *service,
		socklen_t servicelen, int flags)
{
	const void *addr = sa->sa_family == AF_INET ? (const void *)&((const struct sockaddr_in *)sa)->sin_addr
						    : (const void *)&((const struct sockaddr_in6 *)sa)->sin6_addr;
	(void)len, (void)service, (void)servicelen, (void)flags;
	if (sa->sa_family != AF_INET && sa->sa_family != AF_INET6)
		return EAI_FAMILY;
	return inet_ntop(sa->sa_family, addr, host, hostlen) ? 0 : EAI_OVERFLOW;
}

const char *gai_strerror(int error)
{
	switch (error) {
	case EAI_SERVICE:
		return "names of services are not supported, use the port's number";
	case EAI_NONAME:
		return "names of hosts are not supported, use the address";
	default:
		return "cannot resolve";
	}
}
