package config

import (
	"reflect"
	"testing"
)

func TestOptions(t *testing.T) {
	names := map[string]bool{}
	for _, o := range Options() {
		if o.Name == "" || o.Usage == "" || names[o.Name] {
			t.Errorf("option %+v has no name or usage, or is there twice", o)
		}
		names[o.Name] = true
		if o.Default != "" && o.Fallback != "" {
			t.Errorf("%s has a default, so nothing falls back to %q", o.Name, o.Fallback)
		}
	}
	if got := len(names); got < 25 {
		t.Errorf("only %d options", got)
	}
}

// What documentation and help show as the default, given by the user, is the default.
func TestDefaultsReadBack(t *testing.T) {
	for _, o := range Options() {
		if o.Default == "" {
			continue
		}
		var c Config
		if errs := o.set(&c, o.split(o.Default), false); len(errs) > 0 {
			t.Errorf("%s: %v", o.Name, errs)
		}
		have := reflect.ValueOf(c).FieldByIndex(o.field).Interface()
		want := reflect.ValueOf(Defaults()).FieldByIndex(o.field).Interface()
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s: have %v, want %v", o.Name, have, want)
		}
	}
}

func TestDisabled(t *testing.T) {
	c := Defaults()
	c.Disable = []string{DNS}
	if !c.Disabled(DNS) || c.Disabled(Flannel) {
		t.Error("Disabled does not follow --disable")
	}
	c.FlannelBackend = "none"
	if !c.Disabled(Flannel) {
		t.Error("flannel-backend none does not disable flannel")
	}
}

func TestFileMode(t *testing.T) {
	for text, want := range map[string]FileMode{"600": 0o600, "0640": 0o640, "0o644": 0o644} {
		var m FileMode
		if err := m.UnmarshalText([]byte(text)); err != nil || m != want {
			t.Errorf("%s: have %s, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "0", "rw", "1777", "-1", "0x1ff"} {
		var m FileMode
		if err := m.UnmarshalText([]byte(text)); err == nil && text != "0" {
			t.Errorf("%q is accepted as %s", text, m)
		}
	}
}
