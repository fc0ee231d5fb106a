// Command edgebox is the front: the command line of the product, small and quick to start. What is big it unpacks from
// its own file and becomes by exec (the node, kubectl); what the running node knows it asks over a unix socket.
//
// There is one file per verb. Exit codes: 0 done, 1 it did not work or the answer is no, 2 the command line or the
// configuration is wrong.
package main

import "os"

func main() {
	f := front{args: os.Args, environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(f.run())
}
