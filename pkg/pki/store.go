package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/edgebox/edgebox/pkg/durable"
)

// The CAs, by the names of their files.
const (
	ServerCA     = "server-ca"
	ClientCA     = "client-ca"
	FrontProxyCA = "front-proxy-ca"
	DatastoreCA  = "etcd/ca"
)

// ServiceAccount names the key pair of service-account tokens: KeyFile and PublicKeyFile.
const ServiceAccount = "service-account"

var authorities = []string{ServerCA, ClientCA, FrontProxyCA, DatastoreCA}

// earliest is the default of Store.Earliest: a date at which this code existed.
var earliest = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// A Store is a directory of keys and certificates. Its methods may be called from several goroutines, and several
// processes may have Stores of one directory.
type Store struct {
	// Earliest is a date known to have passed, such as that of the build. A clock that is before it is taken to stand
	// there when the end of a certificate is reckoned; see the package comment. New sets a default.
	Earliest time.Time

	dir       string
	now       func() time.Time
	writeFile func(path string, data []byte, perm fs.FileMode) error
	mu        sync.Mutex
}

// New returns the Store in dir, which Ensure makes if necessary.
func New(dir string) *Store {
	return &Store{Earliest: earliest, dir: dir, now: time.Now, writeFile: durable.WriteFile}
}

// CertFile returns the path of a certificate, given the name of a CA or leaf. That of a CA is what clients should
// trust; it may hold a chain.
func (s *Store) CertFile(name string) string { return s.file(name, ".crt") }

// KeyFile returns the path of a private key, given the name of a CA or leaf, or ServiceAccount.
func (s *Store) KeyFile(name string) string { return s.file(name, ".key") }

// PublicKeyFile returns the path of the keys that verify service-account tokens.
func (s *Store) PublicKeyFile() string { return s.file(ServiceAccount, ".pub") }

// SigningCertFile returns the path of the one certificate of a CA that belongs to its key. It is another file than
// CertFile when the user brought a CA with a chain; ask after Ensure. It is what the CSR signer of
// kube-controller-manager needs, which refuses chains, and what client certificates should be verified with: with the
// whole chain, every client of the organisation's root CA would be let in.
func (s *Store) SigningCertFile(ca string) string {
	nochain := s.file(ca, ".nochain.crt")
	if _, err := os.Stat(nochain); err == nil {
		return nochain
	}
	return s.CertFile(ca)
}

// SharedFiles returns the files that all servers of one cluster must have in common, relative to the directory, as
// slash-separated paths: the CAs with their keys and the service-account key pair. A server that joins puts them into
// place before its first Ensure.
func SharedFiles() []string {
	var files []string
	for _, ca := range authorities {
		files = append(files, ca+".key", ca+".crt")
	}
	return append(files, ServiceAccount+".key", ServiceAccount+".pub")
}

func (s *Store) file(name, ext string) string {
	return filepath.Join(s.dir, filepath.FromSlash(name)+ext)
}

// Spec is what a Store should hold besides the CAs and the service-account key, which it always does.
type Spec struct {
	Leaves      []Leaf
	Kubeconfigs []Kubeconfig
}

// Result says what Ensure did.
type Result struct {
	Changes []Change  // certificates written: CAs first, then leaves in the order of the Spec
	Due     time.Time // when the next one will want to be renewed, by the wall clock
}

// A Change is a certificate that was written.
type Change struct {
	Name   string // of the CA or leaf
	Reason string // "missing", "expires on 2027-01-02", …
}

// Names returns the names of what changed.
func (r Result) Names() []string {
	var names []string
	for _, c := range r.Changes {
		names = append(names, c.Name)
	}
	return names
}

// Ensure makes the directory hold the CAs, the service-account key and everything in spec: what is missing or must be
// replaced is written, what is good is left alone. On an error, Result has what was done nevertheless. All problems
// with CAs are reported at once (FileError); no leaf is touched before the CAs are good.
func (s *Store) Ensure(spec Spec) (Result, error) {
	if err := spec.validate(); err != nil {
		return Result{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	unlock, err := s.lock(spec)
	if err != nil {
		return Result{}, err
	}
	defer unlock()

	// Side by side, because it is the disk that takes the time: file systems commit simultaneous fsyncs together.
	var (
		result   Result
		outcomes = make([]outcome, len(authorities))
		cas      = make([]*authority, len(authorities))
		saErr    error
		wg       sync.WaitGroup
	)
	for i, name := range authorities {
		wg.Go(func() { cas[i], outcomes[i] = s.ensureCA(name) })
	}
	wg.Go(func() { saErr = s.ensureServiceAccount() })
	wg.Wait()
	if err := errors.Join(result.add(authorities, outcomes), saErr); err != nil {
		return result, err
	}

	names := make([]string, len(spec.Leaves))
	outcomes = make([]outcome, len(spec.Leaves))
	for i, leaf := range spec.Leaves {
		names[i] = leaf.Name
		wg.Go(func() { outcomes[i] = s.ensureLeaf(leaf, cas[slices.Index(authorities, leaf.CA)]) })
	}
	wg.Wait()
	if err := result.add(names, outcomes); err != nil {
		return result, err
	}

	for _, k := range spec.Kubeconfigs {
		if err := s.ensureKubeconfig(k); err != nil {
			return result, err
		}
	}
	return result, nil
}

// outcome is what became of one CA or leaf.
type outcome struct {
	reason string    // why it was written; empty if it was not
	due    time.Time // when it should be renewed; zero if that would not help
	err    error
}

func (r *Result) add(names []string, outcomes []outcome) error {
	var errs []error
	for i, o := range outcomes {
		if o.reason != "" && o.err == nil {
			r.Changes = append(r.Changes, Change{names[i], o.reason})
		}
		if !o.due.IsZero() && (r.Due.IsZero() || o.due.Before(r.Due)) {
			r.Due = o.due
		}
		errs = append(errs, o.err)
	}
	return errors.Join(errs...)
}

func (spec Spec) validate() error {
	seen := map[string]bool{ServiceAccount: true}
	for _, ca := range authorities {
		seen[ca] = true
	}
	for _, l := range spec.Leaves {
		switch {
		case !fs.ValidPath(l.Name) || l.Name == ".":
			return fmt.Errorf("leaf %q: not a file name", l.Name)
		case seen[l.Name]:
			return fmt.Errorf("leaf %q: declared twice, or a CA's name", l.Name)
		case !slices.Contains(authorities, l.CA):
			return fmt.Errorf("leaf %q: unknown CA %q", l.Name, l.CA)
		case !l.Server && !l.Client:
			return fmt.Errorf("leaf %q: neither for servers nor for clients", l.Name)
		case l.CommonName == "":
			return fmt.Errorf("leaf %q: no common name", l.Name)
		}
		seen[l.Name] = true
	}
	for _, k := range spec.Kubeconfigs {
		if !slices.ContainsFunc(spec.Leaves, func(l Leaf) bool { return l.Name == k.Leaf && l.Client }) {
			return fmt.Errorf("kubeconfig %s: no client leaf %q is declared", k.Path, k.Leaf)
		}
	}
	return nil
}

// lock makes the directories of spec, private, and keeps other processes' Ensure out until unlock is called.
func (s *Store) lock(spec Spec) (unlock func(), err error) {
	dirs := []string{s.dir}
	for _, name := range authorities {
		dirs = append(dirs, filepath.Dir(s.CertFile(name)))
	}
	for _, l := range spec.Leaves {
		dirs = append(dirs, filepath.Dir(s.CertFile(l.Name)))
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for _, dir := range dirs {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of the certificates: %w", err)
		}
		if err := private(dir, 0o700); err != nil {
			return nil, err
		}
	}

	d, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("lock the certificates: %w", err)
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		d.Close()
		return nil, fmt.Errorf("lock the certificates: %w", &fs.PathError{Op: "flock", Path: s.dir, Err: err})
	}
	for _, dir := range dirs {
		if err := durable.RemoveTemp(dir); err != nil {
			d.Close()
			return nil, fmt.Errorf("remove what a crash left: %w", err)
		}
	}
	for _, k := range spec.Kubeconfigs {
		if err := durable.RemoveTemp(filepath.Split(k.Path)); err != nil {
			d.Close()
			return nil, fmt.Errorf("remove what a crash left: %w", err)
		}
	}
	return func() { d.Close() }, nil
}

// private takes away permissions beyond perm.
func private(path string, perm fs.FileMode) error {
	fi, err := os.Stat(path)
	if err == nil && fi.Mode().Perm()&^perm != 0 {
		err = os.Chmod(path, fi.Mode().Perm()&perm)
	}
	if err != nil {
		return fmt.Errorf("make %s private: %w", path, err)
	}
	return nil
}

// write puts a file of the store into place.
func (s *Store) write(path string, data []byte, perm fs.FileMode) error {
	err := s.writeFile(path, data, perm)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: make room and write access in %s", err, filepath.Dir(path))
	}
	return err
}

// clock returns the time by the wall clock, and the one that ends are reckoned by.
func (s *Store) clock() (wall, reckoned time.Time) {
	wall = s.now().Round(0).UTC()
	if wall.Before(s.Earliest) {
		return wall, s.Earliest
	}
	return wall, wall
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// fileName is the last part of a path, for messages that name the directory already.
func fileName(path string) string { return path[strings.LastIndexByte(path, filepath.Separator)+1:] }
