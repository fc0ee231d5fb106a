package bootstrap

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/edgebox/edgebox/pkg/pki"
)

var update = flag.Bool("update", false, "write the golden files")

// TestObjects shows all that nodes, joining machines, anybody and the API server are allowed: a change here is one of security.
func TestObjects(t *testing.T) {
	var docs []string
	for _, r := range clusterRoles(Names{Tunnel: "/edgebox/tunnel", Secrets: "/edgebox/servers-secrets"}) {
		docs = append(docs, asYAML(t, r))
	}
	for _, b := range clusterRoleBindings() {
		docs = append(docs, asYAML(t, b))
	}
	for _, r := range roles("edgebox-cluster") {
		docs = append(docs, asYAML(t, r))
	}
	for _, b := range roleBindings() {
		docs = append(docs, asYAML(t, b))
	}
	got := strings.Join(docs, "---\n")
	path := filepath.Join("testdata", "rbac.yaml")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (-update writes it):\n%s", path, got)
	}
}

func asYAML(t *testing.T, object any) string {
	t.Helper()
	data, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestApply: objects come into being, stay as they are, and get back what someone has taken from them.
func TestApply(t *testing.T) {
	c := fake.NewClientset()
	b := newBootstrap(t, c)
	state := func() string {
		t.Helper()
		if err := b.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, resource := range []string{"clusterroles", "clusterrolebindings", "roles", "rolebindings"} {
			kind := map[string]string{"clusterroles": "ClusterRole", "clusterrolebindings": "ClusterRoleBinding", "roles": "Role", "rolebindings": "RoleBinding"}[resource]
			list, err := c.Tracker().List(rbacv1.SchemeGroupVersion.WithResource(resource), rbacv1.SchemeGroupVersion.WithKind(kind), "")
			if err != nil {
				t.Fatal(err)
			}
			objects, err := meta.ExtractList(list)
			if err != nil || len(objects) == 0 {
				t.Fatalf("%d %s, %v", len(objects), resource, err)
			}
			for _, o := range objects {
				o.(metav1.Object).SetManagedFields(nil) // which have times
				o.(metav1.Object).SetResourceVersion("")
				out = append(out, asYAML(t, o))
			}
		}
		return strings.Join(out, "---\n")
	}
	first := state()
	if again := state(); again != first {
		t.Errorf("the second apply changed objects:\n%s", again)
	}
	role, err := c.RbacV1().ClusterRoles().Get(t.Context(), "edgebox:node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}
	if _, err := c.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{FieldManager: "someone"}); err != nil {
		t.Fatal(err)
	}
	if again := state(); again != first {
		t.Errorf("rules of someone else stayed:\n%s", again)
	}
}

// newBootstrap returns the component with a CA of its own.
func newBootstrap(t *testing.T, c kubernetes.Interface) *Bootstrap {
	t.Helper()
	certs, _ := newPKI(t, t.TempDir())
	return &Bootstrap{client: c, names: Names{Settings: "edgebox-cluster", Tunnel: "/t", Secrets: "/s"}, info: ClusterInfo{Server: "https://192.0.2.7:6443", CAFile: certs.CertFile(pki.ServerCA)}}
}

// TestClusterInfo has the form that kubeadm and its like read, the CA that tokens are for, and no user; the signatures of
// tokens stay on it.
func TestClusterInfo(t *testing.T) {
	c := fake.NewClientset()
	b := newBootstrap(t, c)
	if err := b.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	configMaps := c.CoreV1().ConfigMaps("kube-public")
	m, err := configMaps.Get(t.Context(), "cluster-info", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data["jws-kubeconfig-abcdef"] = "signature"
	if _, err := configMaps.Update(t.Context(), m, metav1.UpdateOptions{FieldManager: "kube-controller-manager"}); err != nil {
		t.Fatal(err)
	}
	if err := b.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, err = configMaps.Get(t.Context(), "cluster-info", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if m.Data["jws-kubeconfig-abcdef"] != "signature" {
		t.Errorf("the signatures are gone: %v", m.Data)
	}
	conf, err := clientcmd.Load([]byte(m.Data["kubeconfig"]))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(b.info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	cluster := conf.Clusters[""]
	if len(conf.Clusters) != 1 || cluster == nil || cluster.Server != "https://192.0.2.7:6443" || string(cluster.CertificateAuthorityData) != string(ca) {
		t.Errorf("the clusters are %v", conf.Clusters)
	}
	if len(conf.AuthInfos) != 0 || len(conf.Contexts) != 0 {
		t.Errorf("it has users %v, contexts %v", conf.AuthInfos, conf.Contexts)
	}
	b.info.CAFile += ".none"
	if err := b.apply(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a CA: %v", err)
	}
}

// TestRunTriesAgain until the API takes the objects.
func TestRunTriesAgain(t *testing.T) {
	b := newBootstrap(t, nil)
	synctest.Test(t, func(t *testing.T) {
		c := fake.NewClientset()
		b.client = c
		refusals := 3
		c.PrependReactor("patch", "clusterroles", func(clienttesting.Action) (bool, runtime.Object, error) {
			refusals--
			return refusals >= 0, nil, errors.New("etcdserver: leader changed")
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		ready := make(chan struct{})
		go func() { ended <- b.Run(ctx, func() { close(ready) }) }()
		<-ready
		if refusals > -1 {
			t.Errorf("ready with %d refusals to come", refusals)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestNodeRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.NewClientset()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		ready := make(chan struct{})
		go func() {
			ended <- (&NodeRole{node: "box", client: c}).Run(ctx, func() { close(ready) })
		}()
		time.Sleep(time.Second)
		select {
		case <-ready:
			t.Error("ready before the kubelet has registered the node")
		default:
		}
		if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "box", Labels: map[string]string{"rack": "cellar"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		<-ready
		node, err := c.CoreV1().Nodes().Get(ctx, "box", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if node.Labels["node-role.kubernetes.io/control-plane"] != "true" || node.Labels["rack"] != "cellar" {
			t.Errorf("labels %v", node.Labels)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// newPKI makes CAs and the administrator's kubeconfig in dir.
func newPKI(t *testing.T, dir string) (certs *pki.Store, kubeconfig string) {
	t.Helper()
	certs, kubeconfig = pki.New(filepath.Join(dir, "pki")), filepath.Join(dir, "admin.kubeconfig")
	if _, err := certs.Ensure(pki.Spec{
		Leaves:      pki.ControlPlaneLeaves(pki.Host{NodeName: "box"}),
		Kubeconfigs: []pki.Kubeconfig{{Path: kubeconfig, Server: "https://127.0.0.1:6443", Leaf: pki.Admin}},
	}); err != nil {
		t.Fatal(err)
	}
	return certs, kubeconfig
}

func TestJoinToken(t *testing.T) {
	dir := t.TempDir()
	certs, kubeconfig := newPKI(t, dir)
	file := filepath.Join(dir, "token")
	prepare := func(chosen string) (pki.Token, error) {
		j := NewJoinToken(kubeconfig, "box", chosen, file, certs)
		err := j.Prepare(t.Context())
		return j.token, err
	}
	first, err := prepare("")
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", fi.Mode(), err)
	}
	ca, err := os.ReadFile(certs.CertFile(pki.ServerCA))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.VerifyCA(ca); err != nil {
		t.Errorf("the token is not for this cluster: %v", err)
	}
	if again, err := prepare(""); err != nil || again != first {
		t.Errorf("another token after a restart: %v, %v", again, err)
	}
	const chosen = "abcdef.0123456789abcdef"
	mine, err := prepare(chosen)
	if err != nil || mine.Bootstrap() != chosen || mine.CAHash != first.CAHash {
		t.Errorf("the user's token became %v, %v", mine, err)
	}

	// A new CA must not leave tokens that name the old one.
	if err := os.RemoveAll(filepath.Join(dir, "pki")); err != nil {
		t.Fatal(err)
	}
	newPKI(t, dir)
	if after, err := prepare(""); err != nil || after.Bootstrap() != chosen || after.CAHash == first.CAHash {
		t.Errorf("with another CA: %v, %v", after, err)
	}

	if _, err := prepare("short"); err == nil || !strings.HasPrefix(err.Error(), "--token: ") || strings.Contains(err.Error(), "short") {
		t.Errorf("a bad token: %v", err)
	}
	if err := os.WriteFile(file, []byte("EB1garbled"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(""); err == nil || !strings.HasPrefix(err.Error(), file) || !strings.HasSuffix(err.Error(), "remove the file to get a new one") {
		t.Errorf("a garbled file: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(""); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder in its place: %v", err)
	}
}

// TestJoinTokenFile: the file is replaced only when that changes something.
func TestJoinTokenFile(t *testing.T) {
	dir := t.TempDir()
	certs, kubeconfig := newPKI(t, dir)
	file := filepath.Join(dir, "token")
	inode := func() os.FileInfo {
		t.Helper()
		if err := NewJoinToken(kubeconfig, "box", "", file, certs).Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(file)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != 0o600 {
			t.Errorf("the file has mode %v", fi.Mode())
		}
		return fi
	}
	first := inode()
	if !os.SameFile(first, inode()) {
		t.Error("the file was written again though nothing had changed")
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(first, inode()) {
		t.Error("who had opened the file while all could read it still sees what is written to it")
	}
}

func TestJoinTokenSecret(t *testing.T) {
	c := fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-users1"},
		Type:       corev1.SecretTypeBootstrapToken,
	})
	apply := func(id, secret string) {
		t.Helper()
		j := &JoinToken{client: c, server: "box", token: pki.Token{ID: id, Secret: secret}}
		for range 2 {
			if err := j.apply(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	secrets := func() (all []corev1.Secret, names string) {
		t.Helper()
		list, err := c.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range list.Items {
			out = append(out, s.Name)
		}
		slices.Sort(out)
		return list.Items, strings.Join(out, " ")
	}

	apply("abcdef", "0123456789abcdef")
	all, names := secrets()
	if names != "bootstrap-token-abcdef bootstrap-token-users1" {
		t.Fatalf("the secrets are %s", names)
	}
	s := all[slices.IndexFunc(all, func(s corev1.Secret) bool { return s.Name == "bootstrap-token-abcdef" })]
	got := map[string]string{}
	for k, v := range s.Data {
		got[k] = string(v)
	}
	if want := map[string]string{
		"auth-extra-groups": "system:bootstrappers:edgebox", "description": "made by edgebox server; see its --token",
		"token-id": "abcdef", "token-secret": "0123456789abcdef",
		"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
	}; s.Type != "bootstrap.kubernetes.io/token" || !maps.Equal(got, want) {
		t.Errorf("%s: %v", s.Type, got)
	}

	// The same id with another secret is another token, too.
	apply("abcdef", "fedcba9876543210")
	if s, err := c.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-abcdef", metav1.GetOptions{}); err != nil || string(s.Data["token-secret"]) != "fedcba9876543210" {
		t.Errorf("the secret is %s, %v", s.Data["token-secret"], err)
	}
	apply("second", "0123456789abcdef")
	if _, names := secrets(); names != "bootstrap-token-second bootstrap-token-users1" {
		t.Errorf("after the token was changed there are %s", names)
	}
}

// TestJoinTokenIsReadyOnceTheFormerIsRevoked, not before.
func TestJoinTokenIsReadyOnceTheFormerIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.NewClientset()
		if err := (&JoinToken{client: c, server: "box", token: pki.Token{ID: "former", Secret: "0123456789abcdef"}}).apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		refusals := 3
		c.PrependReactor("delete", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			refusals--
			return refusals >= 0, nil, errors.New("etcdserver: leader changed")
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		ready := make(chan struct{})
		go func() {
			ended <- (&JoinToken{client: c, server: "box", token: pki.Token{ID: "abcdef", Secret: "0123456789abcdef"}}).Run(ctx, func() { close(ready) })
		}()
		<-ready
		if _, err := c.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-former", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("ready while the former token is good: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
