package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/admin"
)

func (f *front) token() *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "make, list and revoke the tokens by which machines join the cluster (on a server)",
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "make a token and print it",
				Description: `edgebox token create
edgebox token create --ttl 15m --description "the box in the cellar"
edgebox token create --usages signing,authentication,rejoin
ssh root@box edgebox agent --server https://192.168.1.10:6443 --token $(edgebox token create --ttl 10m)`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "ttl", Category: "DURATION", Value: "24h", DefaultText: "24h",
						Usage: "how long the token is valid, such as 30m, 24h or 7d; 0 is for ever"},
					&cli.StringFlag{Name: "usages", Category: "USAGES", Value: defaultUsages, DefaultText: defaultUsages,
						Usage: "what the token is good for; rejoin lets another machine take over the name of a node"},
					&cli.StringFlag{Name: "description", Category: "TEXT", Usage: "what the token is for, to find it in the list"},
					outputFlag(),
				},
				Action: f.createToken,
			},
			{
				Name:  "list",
				Usage: "list tokens, without their secrets",
				Description: `edgebox token list
edgebox token list -o json`,
				Flags:  []cli.Flag{outputFlag()},
				Action: f.listTokens,
			},
			{
				Name:      "delete",
				Usage:     "revoke tokens; machines that have joined with them stay in the cluster",
				ArgsUsage: "ID|TOKEN...",
				Description: `edgebox token delete abcdef
edgebox token delete EB1...::abcdef.0123456789abcdef`,
				Action: f.deleteTokens,
			},
			{
				Name:        "rotate",
				Usage:       "replace the server's own token, print the new one and revoke the old one",
				Description: `edgebox token rotate`,
				Flags:       []cli.Flag{outputFlag()},
				Action:      f.rotateToken,
			},
			{
				Name:  "server",
				Usage: "print the token by which machines join as further servers; it opens the keys of the cluster",
				Description: `edgebox token server
ssh root@box edgebox server --server https://192.168.1.10:6443 --token $(edgebox token server)`,
				Flags:  append([]cli.Flag{configFlag()}, optionFlags("data-dir")...),
				Action: f.serverToken,
			},
		},
	}
}

const defaultUsages = admin.UsageSigning + "," + admin.UsageAuthentication

func (f *front) createToken(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	wanted := admin.NewToken{Description: c.String("description")}
	var ok bool
	if wanted.TTL, ok = parseTTL(c.String("ttl")); !ok {
		return misuse(c, "%q is not a time such as 30m, 24h, 7d or 0: give --ttl one", c.String("ttl"))
	}
	for usage := range strings.SplitSeq(c.String("usages"), ",") {
		usage = strings.TrimSpace(usage)
		if all := admin.TokenUsages(); !slices.Contains(all, usage) {
			return misuse(c, "%q is not a usage of a token%s\nUsages are %s.", usage, didYouMean(usage, all), strings.Join(all, ", "))
		}
		wanted.Usages = append(wanted.Usages, usage)
	}
	return f.printToken(c, "/v1/tokens", wanted)
}

func (f *front) rotateToken(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return f.printToken(c, "/v1/tokens/rotate", nil)
}

func (f *front) serverToken(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	file := f.target(c).Paths().ServerToken()
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("this machine takes no further servers: a cluster of several servers begins with edgebox server --cluster-init, or shares a --datastore-endpoint")
	case errors.Is(err, fs.ErrPermission):
		return exitError{failed, "you may not read " + file + ": use sudo"}
	case err != nil:
		return err
	}
	_, err = f.stdout.Write(text)
	return err
}

// printToken has a token made and prints it alone, so that a shell can take it from there.
func (f *front) printToken(c *cli.Context, path string, wanted any) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	var made admin.WholeToken
	if err := askTokens(c.Context, http.MethodPost, path, wanted, &made); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(f.stdout, made)
	}
	_, err = fmt.Fprintln(f.stdout, made.Whole)
	return err
}

// parseTTL reads a duration of Go, or a number of days.
func parseTTL(s string) (ttl time.Duration, ok bool) {
	const longest = 100 * 365 // days
	if days, found := strings.CutSuffix(s, "d"); found {
		n, err := strconv.ParseUint(days, 10, 32)
		return time.Duration(n) * 24 * time.Hour, err == nil && n <= longest
	}
	ttl, err := time.ParseDuration(s)
	return ttl, err == nil && ttl >= 0
}

func (f *front) listTokens(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	list := []admin.Token{}
	if err := askTokens(c.Context, http.MethodGet, "/v1/tokens", nil, &list); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(f.stdout, list)
	}
	rows := [][]string{{"ID", "TTL", "EXPIRES", "SERVER", "USAGES", "DESCRIPTION"}}
	for _, t := range list {
		ttl, expires := "forever", "never"
		if !t.Expires.IsZero() {
			expires = t.Expires.UTC().Format(time.RFC3339)
			if ttl = age(time.Until(t.Expires)); time.Until(t.Expires) <= 0 {
				ttl = "expired"
			}
		}
		rows = append(rows, []string{t.ID, ttl, expires, cmp.Or(t.Server, "-"), strings.Join(t.Usages, ","), oneLine(t.Description)})
	}
	writeTable(f.stdout, rows)
	return nil
}

func (f *front) deleteTokens(c *cli.Context) error {
	if !c.Args().Present() {
		return misuse(c, "name a token to delete: `edgebox token list` lists them")
	}
	var ids []string
	for _, arg := range c.Args().Slice() {
		id, ok := tokenID(arg)
		if !ok { // which may hold a secret
			return misuse(c, "argument %d is not a token, nor its id, which is six characters of a-z and 0-9", len(ids)+1)
		}
		ids = append(ids, id)
	}
	var errs []error
	for _, id := range ids {
		err := askTokens(c.Context, http.MethodDelete, "/v1/tokens/"+id, nil, nil)
		if errors.Is(err, errNotRunning) {
			return err
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(f.stdout, "deleted", id)
	}
	return errors.Join(errs...)
}

// tokenForm is that of an id, or of what `edgebox token create` prints, with or without its first part.
var tokenForm = regexp.MustCompile(`^(?:[A-Z0-9]+[0-9a-f]{64}::)?([a-z0-9]{6})(?:\.[a-z0-9.]+)?$`)

func tokenID(s string) (id string, ok bool) {
	m := tokenForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return "", false
	}
	return m[1], true
}

// askTokens sends in as JSON, if it is not nil, and decodes the answer into out, if that is not nil.
func askTokens(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	answer, err := localNode().do(ctx, method, path, nil, body)
	if errors.Is(err, errNoSuchRoute) {
		var s admin.Status
		if localNode().get(ctx, "/v1/status", &s) == nil && s.Role == "agent" {
			return errors.New("this machine is an agent of its cluster: use `edgebox token` on a server")
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = answer.Close() }()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(answer).Decode(out); err != nil {
		return fmt.Errorf("read the answer of edgebox: %w", err)
	}
	return nil
}
