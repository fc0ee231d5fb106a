package main

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/pkg/upstream"
)

// notReached are functions with an exit that edgebox never comes to.
var notReached = map[string]string{
	"github.com/cilium/ebpf/internal/testutils/fdtrace":                 "of ebpf's tests",
	"k8s.io/apiserver/pkg/server.SetupSignalContext":                    "edgebox has its own signals",
	"github.com/containerd/containerd/v2/pkg/shim":                      "of shims, which are processes of their own",
	"github.com/coredns/caddy.trapSignalsCrossPlatform":                 "edgebox does not let caddy trap signals",
	"github.com/coredns/caddy.trapSignalsPosix":                         "edgebox does not let caddy trap signals",
	"github.com/coredns/coredns/coremain":                               "of CoreDNS' command",
	"github.com/coredns/coredns/plugin/pkg/log":                         "of plugins that the Corefile does not have",
	"github.com/emicklei/go-restful/v3":                                 "of routes that contradict each other, which upstream's do not",
	"github.com/google/gnostic-models/extensions":                       "of gnostic's own plugins",
	"github.com/quic-go/quic-go/qlog":                                   "with QLOGDIR in the environment",
	"github.com/sirupsen/logrus.Exit":                                   "Fatal calls ExitFunc",
	"github.com/spf13/cobra":                                            "of commands, which edgebox does not run",
	"github.com/spf13/pflag.(*FlagSet).Parse":                           "edgebox sets flags one by one",
	"github.com/spf13/pflag.(*FlagSet).ParseAll":                        "edgebox sets flags one by one",
	"github.com/tetratelabs/wazero/internal/engine/wazevo/wazevoapi":    "when wazero itself is debugged",
	"go.etcd.io/bbolt.(*DefaultLogger).Fatal":                           "bbolt never calls it",
	"go.etcd.io/bbolt.(*DefaultLogger).Fatalf":                          "bbolt never calls it",
	"go.etcd.io/etcd/server/v3":                                         "of its command; what its logger calls fatal ends the component",
	"go.etcd.io/raft/v3":                                                "of its own logger, which etcd replaces",
	"github.com/nats-io/nats-server/v2":                                 "of the server, of which clients use the types",
	"google.golang.org/grpc/grpclog":                                    "of services that are registered wrongly",
	"google.golang.org/protobuf/reflect/protodesc":                      "of broken descriptors, at the start of every process",
	"k8s.io/kubernetes/cmd/kube-scheduler/app.runCommand":               "edgebox calls Setup and Run",
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options.LogOrWriteConfig": "write-config-to is refused as an argument",
	"k8s.io/kubernetes/cmd/kubelet/app.NewKubeletCommand":               "edgebox calls Run",
	"modernc.org/libc":                                                  "of C's exit, which SQLite does not call",
}

// TestUpstreamsDoNotExit goes through the source of everything that is linked in. Each os.Exit must either follow an
// error that pkg/upstream knows as last words, or be known not to be reached.
func TestUpstreamsDoNotExit(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,GoFiles", ".")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var lastWords []string
	for _, words := range upstream.LastWords {
		lastWords = append(lastWords, words...)
	}
	said, reached := map[string]bool{}, map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Dir string
			Standard        bool
			GoFiles         []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Standard || strings.HasPrefix(p.ImportPath, "github.com/edgebox/") {
			continue
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			for _, e := range exitsIn(t, path, lastWords) {
				in := p.ImportPath + "." + e.function
				known := ""
				for where := range notReached {
					if in == where || strings.HasPrefix(in, where+".") || strings.HasPrefix(in, where+"/") {
						known = where
					}
				}
				switch {
				case e.exits && slices.Contains(lastWords, e.after):
					said[e.after] = true
				case e.exits && known != "":
					reached[known] = true
				case e.exits:
					t.Errorf("%s exits after %q: %s:%d", in, e.after, path, e.line)
				default:
					t.Errorf("%s says %q and goes on: %s:%d", in, e.after, path, e.line)
				}
			}
		}
	}
	for _, w := range lastWords {
		if !said[w] {
			t.Errorf("nothing exits after %q", w)
		}
	}
	for where := range notReached {
		if !reached[where] {
			t.Errorf("there is no exit in %s", where)
		}
	}
}

// exit is a place where a function says something and exits, or says what counts as last words and does not.
type exit struct {
	function string
	after    string // what is logged by the statement before
	exits    bool
	line     int
}

func exitsIn(t *testing.T, path string, lastWords []string) (found []exit) {
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(src)
	suspect := strings.Contains(text, "os.Exit(") || strings.Contains(text, "syscall.Exit(") || strings.Contains(text, "log.Fatal")
	speaks := strings.Contains(path, "k8s.io/kubernetes@") && slices.ContainsFunc(lastWords, func(w string) bool { return strings.Contains(text, strconv.Quote(w)) })
	if !suspect && !speaks {
		return nil
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	standardLog := slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"log"` && i.Name == nil })
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			var list []ast.Stmt
			switch n := n.(type) {
			case *ast.BlockStmt:
				list = n.List
			case *ast.CaseClause:
				list = n.Body
			case *ast.CommClause:
				list = n.Body
			}
			for i, stmt := range list {
				e := exit{function: functionName(fn), line: fset.Position(stmt.Pos()).Line}
				callee, words := call(stmt)
				switch {
				case callee == "os.Exit" || callee == "syscall.Exit":
					e.exits = true
					if i > 0 {
						_, e.after = call(list[i-1])
					}
				case standardLog && strings.HasPrefix(callee, "log.Fatal"):
					e.exits = true
				case slices.Contains(lastWords, words) && (strings.HasSuffix(callee, ".Error") || strings.HasSuffix(callee, ".Info")):
					if i+1 < len(list) {
						if next, _ := call(list[i+1]); next == "os.Exit" {
							continue
						}
					}
					e.after = words
				default:
					continue
				}
				found = append(found, e)
			}
			return true
		})
	}
	return found
}

// call returns what a statement calls, as "logger.Error", and the first literal among its arguments.
func call(stmt ast.Stmt) (callee, words string) {
	s, ok := stmt.(*ast.ExprStmt)
	if !ok {
		return "", ""
	}
	c, ok := s.X.(*ast.CallExpr)
	if !ok {
		return "", ""
	}
	if sel, ok := c.Fun.(*ast.SelectorExpr); ok {
		if x, ok := sel.X.(*ast.Ident); ok {
			callee = x.Name + "." + sel.Sel.Name
		}
	}
	for _, arg := range c.Args {
		if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			words, _ = strconv.Unquote(lit.Value)
			break
		}
	}
	return callee, words
}

// functionName is Name, or (*Type).Name for a method.
func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	switch t := fn.Recv.List[0].Type.(type) {
	case *ast.StarExpr:
		if x, ok := t.X.(*ast.Ident); ok {
			return "(*" + x.Name + ")." + fn.Name.Name
		}
	case *ast.Ident:
		return t.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}
