package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The library has each kind of relocation and segment: pointers to its own and to
// foreign data and code, in constant and in writable memory, and a constructor.
const librarySource = `
#include <stdio.h>

int counter = 40;
const char *const words[] = {"constant", "words"};
static char zeroes[5000];

__attribute__((weak)) int nobody_defines_this(void);
int main_callback(int);
int (*pointer)(int) = main_callback;

__attribute__((constructor)) static void construct(void) { counter++; }

int library_call(void)
{
	fprintf(stdout, "%s %s %d %d\n", words[0], words[1], zeroes[4999], nobody_defines_this ? 1 : 0);
	return pointer(counter) + main_callback(0);
}
`

const mainSource = `
#include <stdio.h>

int library_call(void);
int main_callback(int n) { return n + 1; }
int main(void)
{
	printf("%d\n", library_call());
	return 0;
}
`

func TestLinkedLibraryRuns(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc")
	}
	dir := t.TempDir()
	gcc := func(args ...string) {
		t.Helper()
		cmd := exec.Command("gcc", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gcc %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for name, source := range map[string]string{"lib.c": librarySource, "main.c": mainSource} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	gcc("-shared", "-fPIC", "-O1", "-Wl,-z,relro,-z,now", "-o", "lib.so", "lib.c")
	if err := link(filepath.Join(dir, "lib.so"), filepath.Join(dir, "lib"), 0x10000000); err != nil {
		t.Fatal(err)
	}
	gcc("-static", "-no-pie", "-fno-pie", "-Wl,--fatal-warnings", "-o", "main", "main.c", "lib.s", "-Wl,-T,lib.ld")

	out, err := exec.Command(filepath.Join(dir, "main")).CombinedOutput()
	if want := "constant words 0 0\n43\n"; err != nil || string(out) != want {
		t.Errorf("printed %q, %v; want %q", out, err, want)
	}
}

func TestThreadLocalStorageIsRefused(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc")
	}
	dir := t.TempDir()
	cmd := exec.Command("gcc", "-shared", "-fPIC", "-o", filepath.Join(dir, "lib.so"), "-x", "c", "-")
	cmd.Stdin = strings.NewReader("__thread int n = 1; int get(void) { return n; }")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	err := link(filepath.Join(dir, "lib.so"), filepath.Join(dir, "lib"), 0x10000000)
	if err == nil || !strings.Contains(err.Error(), "thread-local") {
		t.Errorf("error %v, want one about thread-local storage", err)
	}
}
