package main

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgebox/edgebox/pkg/admin"
)

const wholeToken = "EB10123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef::abcdef.0123456789abcdef"

func TestToken(t *testing.T) {
	h := newHost(t)
	var asked []string // body or id of each request
	h.serve(map[string]http.HandlerFunc{
		"GET /v1/tokens": answer([]admin.Token{
			{ID: "ownown", Usages: []string{"signing", "authentication"}, Description: "made by\nedgebox", Server: "box"},
			{ID: "abcdef", Usages: []string{"signing", "authentication", "rejoin"}, Expires: time.Now().Add(90*time.Minute + 30*time.Second)},
			{ID: "passed", Usages: []string{}, Expires: time.Unix(0, 0)},
		}),
		"POST /v1/tokens": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			asked = append(asked, string(body))
			answer(admin.WholeToken{Whole: wholeToken, Token: admin.Token{ID: "abcdef"}})(w, r)
		},
		"POST /v1/tokens/rotate": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			asked = append(asked, "rotate"+string(body))
			answer(admin.WholeToken{Whole: wholeToken, Token: admin.Token{ID: "abcdef", Server: "box"}})(w, r)
		},
		"DELETE /v1/tokens/{id}": func(w http.ResponseWriter, r *http.Request) {
			id := r.PathValue("id")
			if id == "nobody" {
				w.WriteHeader(http.StatusNotFound)
				_, _ = w.Write([]byte(`{"message": "there is no token with the id \"nobody\""}`))
				return
			}
			asked = append(asked, id)
			w.WriteHeader(http.StatusNoContent)
		},
	})
	last := func() string { return asked[len(asked)-1] }

	t.Run("create", func(t *testing.T) {
		for args, want := range map[string]string{
			"":                                       `{"ttl":86400000000000,"usages":["signing","authentication"],"description":""}`,
			"--ttl 15m":                              `{"ttl":900000000000,"usages":["signing","authentication"],"description":""}`,
			"--ttl 0":                                `{"ttl":0,"usages":["signing","authentication"],"description":""}`,
			"--ttl=7d --description cellar":          `{"ttl":604800000000000,"usages":["signing","authentication"],"description":"cellar"}`,
			"--usages=signing":                       `{"ttl":86400000000000,"usages":["signing"],"description":""}`,
			"--usages signing,authentication,rejoin": `{"ttl":86400000000000,"usages":["signing","authentication","rejoin"],"description":""}`,
		} {
			r := h.run(append([]string{"token", "create"}, strings.Fields(args)...)...)
			// As $(edgebox token create) takes it.
			if r.code != 0 || r.stdout != wholeToken+"\n" || r.stderr != "" {
				t.Errorf("%s: %+v", args, r)
			}
			if last() != want {
				t.Errorf("%s: asked for %s, want %s", args, last(), want)
			}
		}
		var made map[string]any
		if r := h.run("token", "create", "-o", "json"); json.Unmarshal([]byte(r.stdout), &made) != nil || made["token"] != wholeToken || made["id"] != "abcdef" {
			t.Errorf("-o json: %+v", r)
		}
		n := len(asked)
		for args, want := range map[string]string{
			"--ttl soon":           `"soon" is not a time such as 30m, 24h, 7d or 0: give --ttl one`,
			"--ttl 24":             `"24" is not a time`,
			"--ttl -1h":            `"-1h" is not a time`,
			"--ttl -1d":            `"-1d" is not a time`,
			"--ttl 99999d":         `"99999d" is not a time`,
			"--ttl=":               `"" is not a time`,
			"--usages sining":      "\"sining\" is not a usage of a token: did you mean signing?\nUsages are signing, authentication, rejoin.",
			"--usages signing,":    `"" is not a usage of a token`,
			"--usages=":            `"" is not a usage of a token`,
			"-o yaml":              `"yaml" is not an output format`,
			"abcdef":               `"abcdef" is an argument that is not used`,
			"--description":        "--description needs a value",
			"--groups system:boss": "unknown flag --groups",
		} {
			r := h.run(append([]string{"token", "create"}, strings.Fields(args)...)...)
			r.want(t, 2, want, "See `edgebox token create --help`.")
			if r.stdout != "" {
				t.Errorf("%s: stdout has %q", args, r.stdout)
			}
		}
		if len(asked) != n {
			t.Errorf("a wrong command line was sent: %s", last())
		}
	})
	t.Run("list", func(t *testing.T) {
		lines := strings.Split(h.run("token", "list").stdout, "\n")
		want := []string{"ID TTL EXPIRES SERVER USAGES DESCRIPTION", "ownown forever never box signing,authentication made by edgebox",
			"abcdef 1h30m TIME - signing,authentication,rejoin", "passed expired 1970-01-01T00:00:00Z -", ""}
		for i, l := range lines {
			f := strings.Fields(l)
			if i == 2 && len(f) > 2 {
				if _, err := time.Parse(time.RFC3339, f[2]); err != nil {
					t.Error(err)
				}
				f[2] = "TIME"
			}
			lines[i] = strings.Join(f, " ")
		}
		if !slices.Equal(lines, want) {
			t.Errorf("have\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
		var list []admin.Token
		if err := json.Unmarshal([]byte(h.run("token", "list", "-o", "json").stdout), &list); err != nil || len(list) != 3 || list[0].Server != "box" {
			t.Errorf("-o json: %+v, %v", list, err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		asked = nil
		h.run("token", "delete", "abcdef", wholeToken, "nobody", "ghijkl.0123456789abcdef").want(t, 1,
			"deleted abcdef\ndeleted abcdef\ndeleted ghijkl\n", `edgebox: there is no token with the id "nobody"`)
		if strings.Join(asked, " ") != "abcdef abcdef ghijkl" {
			t.Errorf("deleted %v", asked)
		}
		asked = nil
		h.run("token", "delete").want(t, 2, "name a token to delete")
		for _, bad := range []string{"abc", "ABCDEF", wholeToken[:72], "../../x", "abcdef/rotate"} {
			r := h.run("token", "delete", "abcdef", bad)
			r.want(t, 2, "argument 2 is not a token, nor its id")
			if strings.Contains(r.stderr, bad) {
				t.Errorf("the error tells what may be a secret: %s", r.stderr)
			}
		}
		if len(asked) > 0 {
			t.Errorf("a wrong command line deleted %v", asked)
		}
	})
	t.Run("rotate", func(t *testing.T) {
		if r := h.run("token", "rotate"); r.code != 0 || r.stdout != wholeToken+"\n" || last() != "rotate" {
			t.Errorf("%+v, asked %s", r, last())
		}
		h.run("token", "rotate", "now").want(t, 2, `"now" is an argument that is not used`)
	})
	t.Run("completion", func(t *testing.T) {
		for line, want := range map[string]string{
			"token ":                 "create list delete rotate server :4",
			"token delete ":          "abcdef passed :4",
			"token create --usages ": "signing,authentication signing,authentication,rejoin :4",
			"token create --t":       "--ttl :4",
		} {
			var words []string
			for l := range strings.Lines(h.run(append([]string{completeVerb}, strings.Split(line, " ")...)...).stdout) {
				word, _, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
				words = append(words, word)
			}
			if have := strings.Join(words, " "); have != want {
				t.Errorf("%s: have %s, want %s", line, have, want)
			}
		}
	})
}

// TestTokenElsewhere: on machines that have no tokens to give.
func TestTokenElsewhere(t *testing.T) {
	commands := []string{"token create", "token list", "token delete abcdef", "token rotate"}
	for want, routes := range map[string]map[string]http.HandlerFunc{
		"edgebox is not running on this machine":                        nil,
		"this machine is an agent of its cluster: use `edgebox token` ": {"GET /v1/status": answer(admin.Status{Role: "agent"})},
		"is of another version, which does not know this command":       {"GET /v1/status": answer(admin.Status{Role: "server"})},
		"create token: the API of this server does not answer": {"/v1/": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"message": "create token: the API of this server does not answer: connection refused"}`))
		}},
	} {
		h := newHost(t)
		if routes != nil {
			h.serve(routes)
		}
		for _, c := range commands {
			r := h.run(strings.Fields(c)...)
			r.want(t, 1, want)
			if r.stdout != "" {
				t.Errorf("%s: stdout has %q", c, r.stdout)
			}
		}
	}
}

func TestServerToken(t *testing.T) {
	h := newHost(t)
	h.run("token", "server").want(t, 1, "this machine takes no further servers: a cluster of several servers begins with edgebox server --cluster-init")
	h.mkdir("var/lib/edgebox/server")
	h.write("var/lib/edgebox/server/server-token", "EBS1x\n", 0o600)
	r := h.run("token", "server")
	r.want(t, 0)
	if r.stdout != "EBS1x\n" {
		t.Errorf("it prints %q", r.stdout)
	}
}
