package controlplane

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/edgebox/edgebox/pkg/config"
)

// TestControllersAreReady: when their checks are there, whatever controllers the user leaves out, and on a server that
// was not elected when another's are.
func TestControllersAreReady(t *testing.T) {
	cfg, certs := newServer(t)
	cfg.ControllerManagerArg = []string{"controllers=-namespace-controller"}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var answer string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	defer srv.Close()
	lease := func(holder string, renewed time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-controller-manager"},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: ptr.To(metav1.NewMicroTime(time.Now().Add(-renewed)))},
		}
	}
	const built = "[+]leaderElection ok\n[+]serviceaccount-token-controller ok\n"
	for name, tt := range map[string]struct {
		elect  bool
		answer string
		lease  *coordinationv1.Lease
		want   string // in the error; empty for none
	}{
		"alone, early":          {false, "healthz check passed\n", nil, "being built"},
		"alone":                 {false, built, nil, ""},
		"elected":               {true, built, lease(host+"_1", 0), ""},
		"elected, early":        {true, "[+]leaderElection ok\n", lease(host+"_1", 0), "being built"},
		"nobody elected":        {true, "[+]leaderElection ok\n", nil, "no server has been elected"},
		"another elected":       {true, "[+]leaderElection ok\n", lease("other_1", 0), ""},
		"another that is dead":  {true, "[+]leaderElection ok\n", lease("other_1", time.Minute), "the lease of other_1 has ended"},
		"a lease that is given": {true, "[+]leaderElection ok\n", lease("", 0), "being built"},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewControllerManager(cfg, certs, func() bool { return tt.elect })
			if err := c.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			answer, c.probe.url, c.client = tt.answer, srv.URL, fake.NewClientset()
			if tt.lease != nil {
				c.client = fake.NewClientset(tt.lease)
			}
			err := c.Check(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("the error is %v, want %q", err, tt.want)
			}
		})
	}
}

// TestRefusedArgumentsExist: a typo in the table would refuse nothing.
func TestRefusedArgumentsExist(t *testing.T) {
	cfg, certs := newServer(t)
	for component, prepare := range map[string]func(config.Config) error{
		"kube-apiserver":          func(c config.Config) error { return NewAPIServer(c, certs, fakeStore{}, Egress{}).Prepare(t.Context()) },
		"kube-controller-manager": func(c config.Config) error { return NewControllerManager(c, certs, alone).Prepare(t.Context()) },
		"kube-scheduler":          func(c config.Config) error { return NewScheduler(c, certs, alone).Prepare(t.Context()) },
	} {
		cfg := cfg
		var args []string
		for name := range config.FixedArguments(component + "-arg") {
			args = append(args, name+"=x")
		}
		cfg.APIServerArg, cfg.ControllerManagerArg, cfg.SchedulerArg = args, args, args
		if err := prepare(cfg); err == nil || strings.Contains(err.Error(), "has no flag") {
			t.Errorf("%s: %v", component, err)
		}
	}
}
