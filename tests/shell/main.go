// Command shell boots edgebox in a host of its own and gives a shell in it, to look around or to try something:
//
//	go run ./tests/shell [FLAG OF EDGEBOX SERVER]...
//
// The node is Ready and has the tests' images. The server's log goes to the file that is named first. Nothing is left
// when the shell ends. Commands can also be piped into it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/edgebox/edgebox/tests/framework"
)

func main() {
	framework.Reexec()
	err := run(context.Background(), os.Args[1:])
	framework.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "shell:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, flags []string) error {
	h, err := framework.Boot(framework.Options{})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "log:", h.LogFile())
	if err := h.Start(flags...); err != nil {
		return err
	}
	images, err := framework.Images()
	if err != nil {
		return err
	}
	if err := errors.Join(h.WaitReady(ctx), h.Import(ctx, images...)); err != nil {
		return err
	}
	sh := h.Command(ctx, "sh")
	sh.Dir = "/root"
	sh.Env = []string{"PS1=box# ", "TERM=" + os.Getenv("TERM")}
	sh.Stdin, sh.Stdout, sh.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := sh.Start(); err != nil {
		return err
	}
	return sh.Wait()
}
