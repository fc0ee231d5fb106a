// Package refusal shows what edgebox does with bad input and on damaged machines: one clear error that says what to
// do, an exit code other than 0, and nothing is damaged.
package refusal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// dataDir is edgebox' default.
const dataDir = "/var/lib/edgebox"

// host makes one without a server.
func host(t *testing.T) *framework.Host {
	t.Helper()
	t.Parallel()
	framework.NeedEdgebox(t)
	return framework.NewHost(t, framework.Options{})
}

// refused starts a server, which must end by itself with an error that matches all patterns. It returns the error.
func refused(t *testing.T, h *framework.Host, flags []string, patterns ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
	defer cancel()
	begin := time.Now()
	cmd := h.Command(ctx, append([]string{framework.Binary, "server"}, flags...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("the server did not refuse: %v", err)
	}
	if code := framework.ExitCode(err); code <= 0 {
		t.Errorf("exit: %v, want a code other than 0\n%s", err, out.String())
	}
	if took := time.Since(begin); took > 40*time.Second {
		t.Errorf("the server took %s to refuse", took)
	}
	// What counts is the last thing the user sees: "edgebox: …".
	message := out.String()
	if i := strings.LastIndex(message, "edgebox: "); i >= 0 {
		message = message[i:]
	} else {
		t.Errorf("no final error in the output:\n%s", message)
	}
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(message) {
			t.Errorf("the error does not match %q:\n%s", p, message)
		}
	}
	if strings.Contains(out.String(), "goroutine ") || strings.Contains(out.String(), "panic:") {
		t.Errorf("the user sees a stack trace:\n%s", out.String())
	}
	if lines := strings.Count(strings.TrimSpace(message), "\n"); lines > 12 {
		t.Errorf("the error has %d lines:\n%s", lines, message)
	}
	return message
}

// works shows that nothing was damaged: a server starts on the host and has what was stored before.
func works(t *testing.T, h *framework.Host) {
	t.Helper()
	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Kubectl(t.Context(), "get", "configmap", "kept", "-o", "jsonpath={.data.value}"); err != nil || out != "1" {
		t.Errorf("what was stored before: %q, %v", out, err)
	}
	stop(t, h)
}

func stop(t *testing.T, h *framework.Host) {
	t.Helper()
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// used makes a data dir with something in it.
func used(t *testing.T) *framework.Host {
	t.Helper()
	h := host(t)
	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error { // the namespace is made a moment later
		_, err := h.Kubectl(t.Context(), "create", "configmap", "kept", "--from-literal=value=1")
		return err
	})
	stop(t, h)
	return h
}

func TestBadConfiguration(t *testing.T) {
	h := host(t)
	// Everything that is wrong is told at once, with its place.
	write(t, h, "/etc/edgebox/config.yaml", "colour: blue\nhttps-listen-port: 99999\nnode-lable: [a=b]\ncluster-cidr: [10.42.0.0/16, nonsense]\n")
	refused(t, h, nil, `colour`, `https-listen-port.*99999`, `node-lable.*node-label`, `nonsense`, `config\.yaml`)
	refused(t, h, []string{"--flannel-backend=carrier-pigeon"}, `colour`, `carrier-pigeon`)

	write(t, h, "/etc/edgebox/config.yaml", "data-dir: [unclosed\n")
	refused(t, h, nil, `config\.yaml`, `YAML|line`)

	if err := os.Remove(h.File("/etc/edgebox/config.yaml")); err != nil {
		t.Fatal(err)
	}
	h.Shell(t, "mkdir /etc/edgebox/config.yaml")
	refused(t, h, nil, `config\.yaml`, `directory`)
	h.Shell(t, "rmdir /etc/edgebox/config.yaml")

	refused(t, h, []string{"--disable=no-such-component"}, `no-such-component`)
	refused(t, h, []string{"--no-such-flag"}, `no-such-flag`)
	refused(t, h, []string{"--service-cidr=10.42.128.0/20"}, `service-cidr|cluster-cidr`, `overlap`)
	if left := h.Shell(t, "ls "+dataDir+"/server 2>/dev/null || true"); strings.Contains(left, "db") {
		t.Errorf("a server with bad configuration has made %s", left)
	}
	refused(t, h, []string{"--kube-apiserver-arg=no-such-flag=1"}, `no-such-flag`)
}

func write(t *testing.T, h *framework.Host, path, content string) {
	t.Helper()
	if err := h.WriteFile(path, content); err != nil {
		t.Fatal(err)
	}
}

func TestPortInUse(t *testing.T) {
	h := host(t)
	h.Shell(t, "httpd -f -p 6443 >/dev/null 2>&1 & echo $! >/tmp/pid; until netstat -lnt | grep -q :6443; do sleep 0.1; done")
	pid := h.Shell(t, "cat /tmp/pid")
	refused(t, h, nil, `6443`, `\b`+pid+`\b`, `https-listen-port|stop`)
}

func TestSecondServer(t *testing.T) {
	h := used(t)
	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(t, h, []string{"--https-listen-port=7443"}, `already`, `edgebox stop|data-dir`)
	refused(t, h, nil, `already`)
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Errorf("the first server: %v", err)
	}
	stop(t, h)
	works(t, h)
}

func TestDataDirCannotBeWritten(t *testing.T) {
	h := host(t)
	h.Shell(t, "mkdir -p /mnt/ro; mount -t tmpfs -o ro tmpfs /mnt/ro; touch /file")
	refused(t, h, []string{"--data-dir=/mnt/ro/edgebox"}, `/mnt/ro`, `read-only`)
	refused(t, h, []string{"--data-dir=/file"}, `/file`, `not a directory|is a file`)
	refused(t, h, []string{"--data-dir=relative"}, `relative`, `absolute`)
}

func TestDiskIsFull(t *testing.T) {
	h := host(t)
	h.Shell(t, "mkdir -p "+dataDir+"; mount -t tmpfs -o size=1m tmpfs "+dataDir)
	refused(t, h, []string{"--disable-agent"}, `space`, dataDir)
	h.Shell(t, "umount "+dataDir+"; mount -t tmpfs -o size=1200m tmpfs "+dataDir)

	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error {
		_, err := h.Kubectl(t.Context(), "create", "configmap", "kept", "--from-literal=value=1")
		return err
	})
	// The disk fills up while the server runs. Writes are refused or the server ends, but what it has is safe.
	h.Shell(t, "dd if=/dev/zero of="+dataDir+"/fill bs=1M 2>/dev/null || true; head -c 300000 /dev/urandom | base64 >/tmp/big")
	var acknowledged []string
	for i := range 40 {
		name := fmt.Sprintf("big-%d", i)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, err := h.Kubectl(ctx, "create", "configmap", name, "--from-file=/tmp/big")
		cancel()
		if err != nil {
			break
		}
		acknowledged = append(acknowledged, name)
	}
	if len(acknowledged) == 40 {
		t.Error("writes went through on a full disk")
	}
	_ = h.Stop() // its error does not matter here
	h.Shell(t, "rm "+dataDir+"/fill")
	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(acknowledged, "kept") {
		if _, err := h.Kubectl(t.Context(), "get", "configmap", name); err != nil {
			t.Errorf("acknowledged before, now: %v", err)
		}
	}
	stop(t, h)
	works(t, h)
}

func TestDamagedDatabase(t *testing.T) {
	h := used(t)
	const db = dataDir + "/server/db/state.db"
	h.Shell(t, "cp -a "+dataDir+"/server/db /saved")
	for _, damage := range []struct{ name, script string }{
		{"truncated", "s=$(stat -c %s " + db + "); truncate -s $((s/2)) " + db},
		{"zeroed header", "dd if=/dev/zero of=" + db + " bs=100 count=1 conv=notrunc 2>/dev/null"},
		{"noise inside", "dd if=/dev/urandom of=" + db + " bs=4096 seek=2 count=40 conv=notrunc 2>/dev/null"},
		{"emptied", ": >" + db},
		{"removed, but not its log", "mv " + db + " " + db + "-wal"},
		{"another file", "echo 'this is not a database, but is longer than a header' >" + db},
	} {
		h.Shell(t, "rm -rf "+dataDir+"/server/db; cp -a /saved "+dataDir+"/server/db; "+damage.script)
		before := h.Shell(t, "cd "+filepath.Dir(db)+"; sha256sum *")
		refused(t, h, []string{"--disable-agent"}, regexp.QuoteMeta(db), `damaged|malformed|not a SQLite database|cut short|is empty|is missing`, `restore|backup|snapshot`)
		if after := h.Shell(t, "cd "+filepath.Dir(db)+"; sha256sum *"); after != before {
			t.Errorf("%s: the database was changed", damage.name)
		}
	}
	h.Shell(t, "rm -rf "+dataDir+"/server/db; cp -a /saved "+dataDir+"/server/db")
	works(t, h)
}

func TestHalfUnpackedHelper(t *testing.T) {
	h := used(t)
	// What a power cut leaves of a file that was never synced: its size with other content, or nothing.
	for _, damage := range []string{
		"truncate -s 1000 " + dataDir + "/bin/current/runc",
		"rm " + dataDir + "/bin/current/runc",
		"cd " + dataDir + "/bin/current; rm .verified; : >edgebox-node",
	} {
		h.Shell(t, damage)
		h.Up(t)
		h.Shell(t, dataDir+"/bin/current/runc --version")
		stop(t, h)
	}
	works(t, h)
}

func TestBadCertificates(t *testing.T) {
	h := used(t)
	const pki = dataDir + "/server/pki"
	h.Shell(t, "cp -a "+pki+" /saved")
	cert, key := framework.NewCA(t, "an old one", time.Now().Add(-time.Hour))
	write(t, h, "/expired.crt", cert)
	write(t, h, "/expired.key", key)
	restore := "rm -rf " + pki + "; cp -a /saved " + pki + "; cd " + pki + "; "
	for _, damage := range []struct {
		name, script string
		patterns     []string
	}{
		{"the key of another CA", "cp client-ca.key server-ca.key", []string{`server-ca`, `does not belong`}},
		{"a CA cut short", "truncate -s 200 server-ca.crt", []string{`server-ca\.crt`, `truncated|damaged`}},
		{"a CA without its key", "rm client-ca.key", []string{`client-ca`, `client-ca\.key`}},
		{"an expired CA", "cp /expired.crt server-ca.crt; cp /expired.key server-ca.key", []string{`server-ca\.crt`, `expired`}},
		{"a key cut short", "truncate -s 20 service-account.key", []string{`service-account\.key`}},
	} {
		h.Shell(t, restore+damage.script)
		before := h.Shell(t, "cd "+pki+"; sha256sum *ca.crt *ca.key service-account.key 2>/dev/null || true")
		refused(t, h, []string{"--disable-agent"}, damage.patterns...)
		if after := h.Shell(t, "cd "+pki+"; sha256sum *ca.crt *ca.key service-account.key 2>/dev/null || true"); after != before {
			t.Errorf("%s: files of the user were changed:\n%s\nbefore\n%s", damage.name, after, before)
		}
	}
	// Leaves are edgebox' own: a foreign or damaged one is made anew.
	for _, script := range []string{
		"cp admin.crt apiserver.crt; cp admin.key apiserver.key",
		"truncate -s 100 apiserver.crt",
		"rm apiserver.key",
	} {
		h.Shell(t, restore+script)
		works(t, h)
	}
}
