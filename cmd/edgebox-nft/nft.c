// nft: the command line of nftables on Debian's libnftables, linked statically by
// scripts/helpers.sh. It takes the options of the stock nft 1.0.6 except -i, which
// needs a terminal library.

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nftables/libnftables.h>

static const struct option options[] = {
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'v'},
	{"file", required_argument, NULL, 'f'},
	{"define", required_argument, NULL, 'D'},
	{"includepath", required_argument, NULL, 'I'},
	{"check", no_argument, NULL, 'c'},
	{"optimize", no_argument, NULL, 'o'},
	{"handle", no_argument, NULL, 'a'},
	{"stateless", no_argument, NULL, 's'},
	{"terse", no_argument, NULL, 't'},
	{"service", no_argument, NULL, 'S'},
	{"reversedns", no_argument, NULL, 'N'},
	{"guid", no_argument, NULL, 'u'},
	{"numeric", no_argument, NULL, 'n'},
	{"numeric-priority", no_argument, NULL, 'y'},
	{"numeric-protocol", no_argument, NULL, 'p'},
	{"numeric-time", no_argument, NULL, 'T'},
	{"echo", no_argument, NULL, 'e'},
	{"json", no_argument, NULL, 'j'},
	{"debug", required_argument, NULL, 'd'},
	{0},
};

// The leading + stops at the first command word: `priority -100` is no option.
static const char short_options[] = "+hvVf:D:I:coastSNunypTejd:";

static const struct {
	char option;
	unsigned flag;
} output_flags[] = {
	{'a', NFT_CTX_OUTPUT_HANDLE},
	{'s', NFT_CTX_OUTPUT_STATELESS},
	{'t', NFT_CTX_OUTPUT_TERSE},
	{'S', NFT_CTX_OUTPUT_SERVICE},
	{'N', NFT_CTX_OUTPUT_REVERSEDNS},
	{'u', NFT_CTX_OUTPUT_GUID},
	{'n', NFT_CTX_OUTPUT_NUMERIC_ALL},
	{'y', NFT_CTX_OUTPUT_NUMERIC_PRIO},
	{'p', NFT_CTX_OUTPUT_NUMERIC_PROTO},
	{'T', NFT_CTX_OUTPUT_NUMERIC_TIME},
	{'e', NFT_CTX_OUTPUT_ECHO},
	{'j', NFT_CTX_OUTPUT_JSON},
};

static const struct {
	const char *name;
	unsigned flag;
} debug_levels[] = {
	{"scanner", NFT_DEBUG_SCANNER},
	{"parser", NFT_DEBUG_PARSER},
	{"eval", NFT_DEBUG_EVALUATION},
	{"netlink", NFT_DEBUG_NETLINK},
	{"mnl", NFT_DEBUG_MNL},
	{"proto-ctx", NFT_DEBUG_PROTO_CTX},
	{"segtree", NFT_DEBUG_SEGTREE},
	{"all", ~0u},
};

#define LEN(array) (sizeof(array) / sizeof(*(array)))

static _Noreturn void fail(const char *what, const char *arg)
{
	fprintf(stderr, "Error: %s%s\n", what, arg);
	exit(EXIT_FAILURE);
}

static void help(void)
{
	puts("Usage: nft [ options ] [ cmds... ]\n\nOptions:");
	for (const struct option *o = options; o->name; o++)
		printf("  -%c, --%s%s\n", o->val, o->name, o->has_arg ? " <value>" : "");
}

static unsigned parse_debug(char *levels)
{
	unsigned mask = 0;
	for (char *name = strtok(levels, ","); name; name = strtok(NULL, ",")) {
		size_t i = 0;
		while (i < LEN(debug_levels) && strcmp(name, debug_levels[i].name))
			i++;
		if (i == LEN(debug_levels))
			fail("invalid debug level ", name);
		mask |= debug_levels[i].flag;
	}
	return mask;
}

// join makes one command of the words.
static char *join(char **words)
{
	size_t len = 1;
	for (char **w = words; *w; w++)
		len += strlen(*w) + 1;
	char *command = calloc(1, len), *end = command;
	if (!command)
		fail("out of memory", "");
	for (char **w = words; *w; w++)
		end += sprintf(end, w[1] ? "%s " : "%s", *w);
	return command;
}

int main(int argc, char **argv)
{
	struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
	const char *file = NULL;
	unsigned output = 0;
	int option;

	if (!nft)
		fail("cannot start libnftables", "");
	while ((option = getopt_long(argc, argv, short_options, options, NULL)) != -1) {
		switch (option) {
		case 'h':
			help();
			return EXIT_SUCCESS;
		case 'v':
		case 'V':
			puts("nftables v" NFTABLES_VERSION " (edgebox)");
			return EXIT_SUCCESS;
		case 'f':
			file = optarg;
			break;
		case 'c':
			nft_ctx_set_dry_run(nft, true);
			break;
		case 'o':
			nft_ctx_set_optimize(nft, NFT_OPTIMIZE_ENABLED);
			break;
		case 'D':
			if (nft_ctx_add_var(nft, optarg))
				fail("cannot define ", optarg);
			break;
		case 'I':
			if (nft_ctx_add_include_path(nft, optarg))
				fail("cannot add include path ", optarg);
			break;
		case 'd':
			nft_ctx_output_set_debug(nft, nft_ctx_output_get_debug(nft) | parse_debug(optarg));
			break;
		case '?':
			return EXIT_FAILURE;
		default:
			for (size_t i = 0; i < LEN(output_flags); i++)
				if (output_flags[i].option == option)
					output |= output_flags[i].flag;
		}
	}
	nft_ctx_output_set_flags(nft, output);

	int failed;
	if (file && argv[optind])
		fail("a file and a command exclude each other: ", argv[optind]);
	else if (file)
		failed = nft_run_cmd_from_filename(nft, strcmp(file, "-") ? file : "/dev/stdin");
	else if (argv[optind])
		failed = nft_run_cmd_from_buffer(nft, join(argv + optind));
	else
		fail("no command specified", "");
	if (fflush(stdout))
		failed = 1;
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
