package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestDescribe(t *testing.T) {
	s := newStore(t)
	if _, err := s.Describe(); !os.IsNotExist(err) {
		t.Errorf("without a directory: %v", err)
	}
	root := issue(t, nil, ecKey(), "root", nil)
	s.bring(t, ClientCA, issue(t, root, ecKey(), "short", func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 5, 0) }), root)
	s.ensure(t, allLeaves(testHost))

	foreign := issue(t, nil, ecKey(), "foreign", nil)
	write(t, s.CertFile(Kubelet), certPEM(foreign))
	write(t, s.KeyFile(Kubelet), keyPEM(t, foreign.key))
	write(t, s.KeyFile(Scheduler), keyPEM(t, ecKey()))
	os.Remove(s.KeyFile(ControllerManager))
	os.Truncate(s.CertFile(KubeletClient), 100)
	os.Truncate(s.KeyFile(Admin), 50)
	os.Remove(s.KeyFile(FrontProxyCA))
	before := s.files(t)

	type row struct {
		name   string
		status Status
		detail string
	}
	rows := func() []row {
		all, err := s.Describe()
		if err != nil {
			t.Fatal(err)
		}
		var rows []row
		for _, d := range all {
			rows = append(rows, row{d.Name, d.Status, d.Detail})
		}
		return rows
	}
	const truncated = "is truncated or damaged: it has a PEM block that cannot be decoded"
	want := []row{
		{ServerCA, OK, ""},
		{ClientCA, Expiring, "replace it before 2027-08-01"},
		{FrontProxyCA, Invalid, s.CertFile(FrontProxyCA) + ": there is no front-proxy-ca.key beside it: put a valid front-proxy-ca.crt and front-proxy-ca.key into place, or remove both to have a new CA made"},
		{DatastoreCA, OK, ""},
		{Admin, Invalid, "key file: " + truncated},
		{DatastoreClient, OK, ""},
		{APIServerKubelet, OK, ""},
		{APIServer, OK, ""},
		{ControllerManager, Invalid, "there is no key beside it"},
		{DatastorePeer, OK, ""},
		{DatastoreServer, OK, ""},
		{FrontProxyClient, Foreign, ""}, // its CA cannot be used
		{KubeletClient, Invalid, truncated},
		{Kubelet, Foreign, ""},
		{Scheduler, Invalid, "does not belong to the key beside it"},
	}
	if got := rows(); !slices.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}

	for at, status := range map[time.Time]Status{
		today.Add(leafValidity - time.Hour): Expiring,
		today.Add(leafValidity + time.Hour): Expired,
		time.Unix(0, 0):                     OK,
	} {
		s.set(at)
		if got := rows(); got[7].status != status {
			t.Errorf("at %v: %v", at, got[7])
		}
	}
	s.set(today.Add(caValidity - time.Hour))
	if got := rows(); got[0] != (row{ServerCA, Expiring, "edgebox prolongs it at the next start"}) || got[1].status != Expired || got[1].detail == "" {
		t.Errorf("CAs at their end: %v", got[:2])
	}
	s.set(today.AddDate(-20, 0, 0))
	if got := rows()[1]; got.status != NotYetValid || got.detail == "" {
		t.Errorf("user's CA in the past: %v", got)
	}
	if c := changed(before, s.files(t)); c != nil {
		t.Errorf("Describe changed %v", c)
	}

	s.set(today)
	all, _ := s.Describe()
	d := all[13]
	if d.File != s.CertFile(Kubelet) || d.Subject != "CN=foreign" || d.Issuer != "CN=foreign" || !d.NotAfter.Equal(foreign.cert.NotAfter) {
		t.Errorf("%+v", d)
	}
	if !all[0].CA || len(all[7].SANs) != 13 || all[0].File != filepath.Join(s.dir, "server-ca.crt") {
		t.Errorf("%+v\n%+v", all[0], all[7])
	}
}
