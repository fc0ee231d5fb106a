package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestFreshDirectory(t *testing.T) {
	s := newStore(t)
	leaves := allLeaves(testHost)
	result, err := s.Ensure(Spec{Leaves: leaves})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(authorities)
	for _, l := range leaves {
		want = append(want, l.Name)
	}
	if got := result.Names(); !slices.Equal(got, want) {
		t.Errorf("changed %v, want %v", got, want)
	}
	if want := s.cert(t, "apiserver").NotAfter.Add(-leafRenewBefore); !result.Due.Equal(want) {
		t.Errorf("due %v, want %v", result.Due, want)
	}

	wantFiles := strings.Fields(`
		admin.crt admin.key apiserver-etcd-client.crt apiserver-etcd-client.key apiserver-kubelet-client.crt
		apiserver-kubelet-client.key apiserver.crt apiserver.key client-ca.crt client-ca.key controller-manager.crt
		controller-manager.key etcd/ca.crt etcd/ca.key etcd/peer.crt etcd/peer.key etcd/server.crt etcd/server.key
		front-proxy-ca.crt front-proxy-ca.key front-proxy-client.crt front-proxy-client.key kubelet-client.crt
		kubelet-client.key kubelet.crt kubelet.key scheduler.crt scheduler.key server-ca.crt server-ca.key
		service-account.key service-account.pub`)
	before := s.files(t)
	if got := changed(nil, before); !slices.Equal(got, wantFiles) {
		t.Errorf("files\n%v\nwant\n%v", got, wantFiles)
	}
	if got := s.ensure(t, leaves); got != nil || changed(before, s.files(t)) != nil {
		t.Errorf("the second time changed %v, files %v", got, changed(before, s.files(t)))
	}
	for _, f := range SharedFiles() {
		if before[f] == "" {
			t.Errorf("SharedFiles names %s, which is not there", f)
		}
	}
}

func TestPermissions(t *testing.T) {
	s := newStore(t)
	leaves := allLeaves(testHost)
	s.ensure(t, leaves)
	check := func() {
		t.Helper()
		err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			want := fs.FileMode(0o644)
			if d.IsDir() {
				want = 0o700
			} else if filepath.Ext(path) == ".key" {
				want = 0o600
			}
			fi, err := d.Info()
			if err == nil && fi.Mode().Perm() != want {
				t.Errorf("%s has mode %v, want %v", path, fi.Mode().Perm(), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check()
	for _, path := range []string{s.KeyFile(Admin), s.KeyFile(ClientCA), s.KeyFile(ServiceAccount)} {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{s.dir, filepath.Join(s.dir, "etcd")} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.ensure(t, leaves)
	check()
}

func TestSpecThatCannotBe(t *testing.T) {
	good := Leaf{Name: "x", CA: ServerCA, CommonName: "x", Server: true}
	edit := func(f func(*Leaf)) []Leaf {
		l := good
		f(&l)
		return []Leaf{l}
	}
	for want, spec := range map[string]Spec{
		"not a file name": {Leaves: edit(func(l *Leaf) { l.Name = "../x" })},
		"a CA's name":     {Leaves: edit(func(l *Leaf) { l.Name = ClientCA })},
		"twice":           {Leaves: []Leaf{good, good}},
		"unknown CA":      {Leaves: edit(func(l *Leaf) { l.CA = "ca" })},
		"neither":         {Leaves: edit(func(l *Leaf) { l.Server = false })},
		"no common name":  {Leaves: edit(func(l *Leaf) { l.CommonName = "" })},
		"no client leaf":  {Leaves: []Leaf{good}, Kubeconfigs: []Kubeconfig{{Path: "k", Leaf: "x"}}},
	} {
		s := newStore(t)
		_, err := s.Ensure(spec)
		wantError(t, err, want)
		if _, err := os.Stat(s.dir); err == nil {
			t.Errorf("%s: made the directory nevertheless", want)
		}
	}
}

func TestConcurrentEnsure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	shared := New(dir)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := shared
			if i%2 == 1 {
				s = New(dir) // as another process would
			}
			if _, err := s.Ensure(Spec{Leaves: allLeaves(testHost)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, l := range allLeaves(testHost) {
		if _, err := tls.LoadX509KeyPair(shared.CertFile(l.Name), shared.KeyFile(l.Name)); err != nil {
			t.Error(err)
		}
	}
	if r, err := shared.Ensure(Spec{Leaves: allLeaves(testHost)}); err != nil || r.Changes != nil {
		t.Errorf("not all were good: %v, %v", r.Changes, err)
	}
}

// A reader that looks at any moment of a renewal finds a certificate and key that match.
func TestReadersDuringRenewal(t *testing.T) {
	s := newStore(t)
	s.ensure(t, allLeaves(testHost))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := tls.LoadX509KeyPair(s.CertFile(APIServer), s.KeyFile(APIServer)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 20 {
		s.set(s.now().Add(leafValidity))
		if got := s.ensure(t, allLeaves(testHost)); !slices.Contains(got, APIServer) {
			t.Errorf("renewed only %v", got)
		}
	}
	close(done)
	wg.Wait()
}

// The power goes after each number of writes; the next boot must succeed, and keep what was written of the CAs.
func TestCrashAtEveryWrite(t *testing.T) {
	leaves := allLeaves(testHost)
	for n := range 32 { // files of a fresh directory

		s := newStore(t)
		var mu sync.Mutex
		left := n
		s.writeFile = func(path string, data []byte, perm fs.FileMode) error {
			mu.Lock()
			defer mu.Unlock()
			if left--; left < 0 {
				// What a crash in the middle of durable.WriteFile leaves.
				os.WriteFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp-1"), data[:len(data)/2], 0o600)
				return errors.New("the power went")
			}
			return writeUnsynced(path, data, perm)
		}
		_, err := s.Ensure(Spec{Leaves: leaves})
		wantError(t, err, "the power went")
		before := s.files(t)

		s.writeFile = writeUnsynced
		s.ensure(t, leaves)
		after := s.files(t)
		for name, content := range after {
			if strings.Contains(name, ".tmp-") {
				t.Errorf("after %d writes: %s stayed", n, name)
			}
			if isShared := slices.Contains(SharedFiles(), name); isShared && before[name] != "" && before[name] != content {
				t.Errorf("after %d writes: %s was replaced", n, name)
			}
		}
		if got := s.ensure(t, leaves); got != nil {
			t.Errorf("after %d writes: %v were not good yet", n, got)
		}
	}
}

func TestDiskFailures(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EROFS} {
		s := newStore(t)
		s.ensure(t, allLeaves(testHost))
		before := s.files(t)
		s.writeFile = func(path string, _ []byte, _ fs.FileMode) error {
			return &fs.PathError{Op: "write", Path: path, Err: cause}
		}
		s.ensure(t, allLeaves(testHost)) // nothing to write, no problem

		s.set(today.Add(leafValidity - leafRenewBefore/2))
		_, err := s.Ensure(Spec{Leaves: allLeaves(testHost)})
		if !errors.Is(err, cause) {
			t.Errorf("err = %v, want %v", err, cause)
		}
		wantError(t, err, s.CertFile(APIServer), "make room and write access in "+s.dir)
		if c := changed(before, s.files(t)); c != nil {
			t.Errorf("changed %v", c)
		}
	}
}

func TestDirectoryThatCannotBe(t *testing.T) {
	s := newStore(t)
	write(t, s.dir, []byte("a file"))
	_, err := s.Ensure(Spec{})
	wantError(t, err, "make the directory of the certificates", s.dir, "not a directory")
}

// TestReadOnlyDirectory runs itself again in a mount namespace of its own, where the directory is read-only even for
// root.
func TestReadOnlyDirectory(t *testing.T) {
	const variable = "PKI_TEST_READ_ONLY"
	if dir := os.Getenv(variable); dir != "" {
		for _, args := range []struct {
			source, fstype string
			flags          uintptr
		}{{"", "", syscall.MS_PRIVATE | syscall.MS_REC}, {dir, "", syscall.MS_BIND}, {"", "", syscall.MS_REMOUNT | syscall.MS_BIND | syscall.MS_RDONLY}} {
			target := dir
			if args.flags&syscall.MS_PRIVATE != 0 {
				target = "/"
			}
			if err := syscall.Mount(args.source, target, args.fstype, args.flags, ""); err != nil {
				t.Skip("cannot mount: ", err)
			}
		}
		s := New(dir)
		s.now = newStoreClock
		if _, err := s.Ensure(Spec{Leaves: ControlPlaneLeaves(testHost)}); err != nil {
			t.Errorf("nothing had to be written, yet: %v", err)
		}
		_, err := s.Ensure(Spec{Leaves: allLeaves(testHost)})
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("err = %v, want EROFS", err)
		}
		wantError(t, err, "make room and write access in "+dir)
		return
	}

	s := newStore(t)
	s.ensure(t, ControlPlaneLeaves(testHost))
	before := s.files(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestReadOnlyDirectory$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("needs a mount namespace: ", err)
	}
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		t.Logf("%s", out)
		if err == nil {
			t.Skip("skipped within")
		}
		t.Fatal(err)
	}
	if c := changed(before, s.files(t)); c != nil {
		t.Errorf("changed %v", c)
	}
}

// Every leaf is good for what it is declared for, and for nothing else.
func TestLeavesVerify(t *testing.T) {
	s := newStore(t)
	leaves := allLeaves(testHost)
	s.ensure(t, leaves)
	for _, l := range leaves {
		cert := s.cert(t, l.Name)
		for _, ca := range authorities {
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
				pool := x509.NewCertPool()
				pool.AddCert(s.cert(t, ca))
				_, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{usage}})
				if want := ca == l.CA && slices.Contains(l.usages(), usage); (err == nil) != want {
					t.Errorf("%s as %v under %s: %v", l.Name, usage, ca, err)
				}
			}
		}
		if cert.IsCA || cert.Version != 3 || cert.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s: CA %v, version %d, key usage %b", l.Name, cert.IsCA, cert.Version, cert.KeyUsage)
		}
	}

	identities := map[string]string{
		APIServer: "CN=kube-apiserver", APIServerKubelet: "CN=kube-apiserver-kubelet-client,O=edgebox:kubelet-api-admins",
		FrontProxyClient: "CN=front-proxy-client", ControllerManager: "CN=system:kube-controller-manager",
		Scheduler: "CN=system:kube-scheduler", Admin: "CN=system:admin,O=system:masters",
		Kubelet: "CN=system:node:Node-1,O=system:nodes", KubeletClient: "CN=system:node:Node-1,O=system:nodes",
		DatastoreServer: "CN=Node-1", DatastorePeer: "CN=Node-1", DatastoreClient: "CN=kube-apiserver-etcd-client",
	}
	for name, want := range identities {
		if got := s.cert(t, name).Subject.String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for name, hosts := range map[string]string{
		APIServer: "kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local localhost " +
			"127.0.0.1 ::1 10.43.0.1 node-1 192.0.2.7 2001:db8::7 api.example.org 198.51.100.1",
		Kubelet:         "node-1 192.0.2.7 2001:db8::7",
		DatastoreServer: "localhost 127.0.0.1 ::1 node-1 192.0.2.7 2001:db8::7",
	} {
		cert := s.cert(t, name)
		for host := range strings.FieldsSeq(hosts) {
			if err := cert.VerifyHostname(host); err != nil {
				t.Error(err)
			}
		}
		if got := len(sans(cert)); got != len(strings.Fields(hosts)) {
			t.Errorf("%s has %v", name, sans(cert))
		}
	}
}

// A TLS connection as between apiserver and controller-manager, both ends from the files alone.
func TestHandshake(t *testing.T) {
	root := issue(t, nil, rsaKey(), "corporate root", nil)
	intermediate := issue(t, root, ecKey(), "cluster", nil)
	for _, chain := range [][]*issuer{nil, {intermediate, root}} {
		s := newStore(t)
		if chain != nil {
			s.bring(t, ServerCA, chain...)
			s.bring(t, ClientCA, chain...)
		}
		s.ensure(t, allLeaves(testHost))
		pool := func(file string) *x509.CertPool {
			p := x509.NewCertPool()
			data, _ := os.ReadFile(file)
			p.AppendCertsFromPEM(data)
			return p
		}
		pair := func(name string) []tls.Certificate {
			c, err := tls.LoadX509KeyPair(s.CertFile(name), s.KeyFile(name))
			if err != nil {
				t.Fatal(err)
			}
			return []tls.Certificate{c}
		}
		// Clients trust the root alone, as OpenSSL does; servers the signing certificate alone.
		roots := pool(s.CertFile(ServerCA))
		if chain != nil {
			roots = x509.NewCertPool()
			roots.AddCert(root.cert)
		}
		server := &tls.Config{Certificates: pair(APIServer), ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: pool(s.SigningCertFile(ClientCA)), Time: s.now}
		client := &tls.Config{Certificates: pair(ControllerManager), RootCAs: roots, ServerName: "kubernetes.default.svc", Time: s.now}
		if err := handshake(server, client); err != nil {
			t.Error(err)
		}
		if chain == nil {
			continue
		}
		// Somebody else of the same corporation, with a name to the same effect.
		other := issue(t, root, ecKey(), "system:admin", func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage, c.ExtKeyUsage = false, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})
		client.Certificates = []tls.Certificate{{Certificate: [][]byte{other.cert.Raw}, PrivateKey: other.key}}
		if err := handshake(server, client); err == nil {
			t.Error("a client of the root, but not of the cluster's CA, was let in")
		}
	}
}
