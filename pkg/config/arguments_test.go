package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestFixedArguments: all of them are told at once, and with the option that is to be used instead.
func TestFixedArguments(t *testing.T) {
	c := Defaults()
	c.APIServerArg = []string{"v=2", "secure-port=1", "bind-address=::1"}
	c.ControllerManagerArg = []string{"leader-elect=true"}
	c.SchedulerArg = []string{"kubeconfig=/k", "config=/scheduler.yaml"}
	c.KubeletArg = []string{"max-pods=60", "node-ip=192.0.2.1"}
	c.ProxyArg = []string{"proxy-mode=iptables"}
	var problems Problems
	if !errors.As(c.Validate(), &problems) {
		t.Fatal("no problems")
	}
	const want = `kube-apiserver-arg: secure-port is set by --https-listen-port
kube-apiserver-arg: bind-address is set by --bind-address
kube-controller-manager-arg: leader-elect is set by edgebox: servers elect one when they share a datastore
kube-scheduler-arg: kubeconfig cannot be set: the component acts under the identity that edgebox gives it
kubelet-arg: node-ip is set by --node-ip
kube-proxy-arg: proxy-mode cannot be set: Services are in nftables`
	if problems.Error() != want {
		t.Errorf("have\n%s\nwant\n%s", problems, want)
	}
}

// TestFixedArgumentsNameOptions: what is to be used instead exists.
func TestFixedArgumentsNameOptions(t *testing.T) {
	var options []string
	for _, o := range Options() {
		options = append(options, o.Name)
	}
	for option, arguments := range fixedArguments {
		if !slices.Contains(options, option) {
			t.Errorf("there is no option %s", option)
		}
		for name, reason := range arguments {
			_, instead, found := strings.Cut(reason, setBy)
			if found && !slices.Contains(options, instead) {
				t.Errorf("%s: %s: there is no option %s", option, name, instead)
			}
		}
	}
}
