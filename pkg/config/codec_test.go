package config

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// full is a configuration in which every field has a value.
func full(t *testing.T) Config {
	t.Helper()
	samples := map[Kind]string{Switch: "true", Number: "7", Text: "text", List: "one"}
	special := map[string]string{
		"cluster-cidr": "10.42.0.0/16,fd42::/56", "service-cidr": "10.43.0.0/16", "cluster-dns": "10.43.0.10", "node-ip": "192.0.2.1,2001:db8::1",
		"bind-address": "::", "advertise-address": "192.0.2.1", "write-kubeconfig-mode": "0640",
	}
	var c Config
	for _, o := range Options() {
		value, ok := special[o.Name]
		if !ok {
			value = samples[o.Kind]
		}
		if errs := o.set(&c, o.split(value), false); len(errs) > 0 {
			t.Fatalf("%s: %v", o.Name, errs)
		}
		if reflect.ValueOf(c).FieldByIndex(o.field).IsZero() {
			t.Fatalf("%s is not set", o.Name)
		}
	}
	return c
}

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]Config{"zero": {}, "defaults": Defaults(), "full": full(t)} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := want.Encode(&b); err != nil {
				t.Fatal(err)
			}
			have, err := Decode(&b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(have, want) {
				t.Errorf("have %+v\nwant %+v", have, want)
			}
		})
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for _, text := range []string{"", "{", `{"NoSuchField": 1}`, `{"BindAddress": "all"}`, `{"HTTPSListenPort": "6443"}`, "{}{}", "{} x", "[]"} {
		if _, err := Decode(strings.NewReader(text)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

func TestWithoutSecrets(t *testing.T) {
	c := full(t)
	d := c.WithoutSecrets()
	if d.Token != "" || d.DatastoreEndpoint != "" {
		t.Error("secrets are left")
	}
	if c.Token == "" || d.DataDir != c.DataDir {
		t.Error("more than the secrets changed")
	}
}
