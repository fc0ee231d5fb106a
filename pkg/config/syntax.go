package config

import (
	"errors"
	"regexp"
	"slices"
	"strings"
)

// The rules below are those of k8s.io/apimachinery/pkg/util/validation, kept here so that the front need not link
// Kubernetes. Each says what is wrong in words that follow the value.

var (
	labelRE    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)            // RFC 1123 label
	nameRE     = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`) // name of a label, or its value
	argumentRE = regexp.MustCompile(`^[A-Za-z][-A-Za-z0-9_.]*=`)                  // NAME=VALUE of a command line flag
	taintRE    = regexp.MustCompile(`^([^=:]+)(?:=([^:]*))?:([^:]*)$`)            // KEY[=VALUE]:EFFECT
	effects    = []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
)

// dnsName is the rule of an RFC 1123 subdomain.
func dnsName(s string) error {
	if len(s) > 253 {
		return errors.New("is longer than 253 characters")
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > 63 || !labelRE.MatchString(label) {
			return errors.New("is not a DNS name: use lower-case letters, digits, - and . (RFC 1123)")
		}
	}
	return nil
}

// nodeName also has to fit into the label kubernetes.io/hostname.
func nodeName(s string) error {
	if len(s) > 63 {
		return errors.New("is longer than 63 characters")
	}
	return dnsName(s)
}

func qualifiedName(s string) error {
	prefix, name, found := strings.Cut(s, "/")
	if !found {
		name = s
	} else if dnsName(prefix) != nil {
		return errors.New("has a key whose part before / is not a DNS name")
	}
	if len(name) > 63 || !nameRE.MatchString(name) {
		return errors.New("has a key that is not up to 63 letters, digits, -, _ and ., with a letter or digit at both ends")
	}
	return nil
}

func labelValue(s string) error {
	if s != "" && (len(s) > 63 || !nameRE.MatchString(s)) {
		return errors.New("has a value that is not up to 63 letters, digits, -, _ and ., with a letter or digit at both ends")
	}
	return nil
}

// nodeLabel also holds the kubelet's rule on which labels of Kubernetes a node may give itself
// (k8s.io/kubelet/pkg/apis: IsKubeletLabel).
func nodeLabel(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("is not of the form KEY=VALUE")
	}
	if err := qualifiedName(key); err != nil {
		return err
	}
	if err := labelValue(value); err != nil {
		return err
	}
	prefix, _, found := strings.Cut(key, "/")
	if !found || !within(prefix, "kubernetes.io") && !within(prefix, "k8s.io") || slices.Contains(kubeletLabels, key) ||
		within(prefix, "kubelet.kubernetes.io") || within(prefix, "node.kubernetes.io") {
		return nil
	}
	return errors.New("is a label that a node may not give itself: set it with `edgebox kubectl label node`, " +
		"or use a prefix of your own or node.kubernetes.io")
}

var kubeletLabels = []string{
	"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
	"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	"node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type",
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

func nodeTaint(s string) error {
	m := taintRE.FindStringSubmatch(s)
	if m == nil {
		return errors.New("is not of the form KEY=VALUE:EFFECT")
	}
	if err := qualifiedName(m[1]); err != nil {
		return err
	}
	if err := labelValue(m[2]); err != nil {
		return err
	}
	if !slices.Contains(effects, m[3]) {
		return errors.New("has an effect that is not " + strings.Join(effects, ", "))
	}
	return nil
}

func upstreamArg(s string) error {
	if strings.HasPrefix(s, "-") {
		return errors.New("must be written without dashes at its start")
	}
	if !argumentRE.MatchString(s) {
		return errors.New("is not of the form NAME=VALUE")
	}
	return nil
}

// interfaceName is the kernel's rule (dev_valid_name).
func interfaceName(s string) error {
	if len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n") {
		return errors.New("cannot be the name of a network interface")
	}
	return nil
}
