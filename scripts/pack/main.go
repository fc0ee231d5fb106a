// Command pack makes the one file `edgebox` of a front executable and the files
// that it is to unpack. See pkg/payload for the format.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"github.com/edgebox/edgebox/pkg/payload"
)

func main() {
	out := flag.String("o", "", "the `file` to write")
	front := flag.String("front", "", "the `executable` that users run")
	level := flag.String("level", "fast", "fast for daily builds, best for releases (needs the zstd command)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: pack -o FILE -front EXECUTABLE [-level fast|best] FILE...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *out == "" || *front == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *front, *level, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(out, front, level string, files []string) error {
	compress := map[string]payload.Compressor{"fast": payload.Fast(), "best": best}[level]
	if compress == nil {
		return fmt.Errorf("unknown level %q (fast, best)", level)
	}
	if err := payload.Pack(out, front, files, compress); err != nil {
		return err
	}
	p, err := payload.Open(out)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Verify()
}

// best is the stock zstd command, which compresses further than the Go encoder.
func best(raw []byte) ([]byte, error) {
	cmd := exec.Command("zstd", "-q", "-c", "--ultra", "-22", "--single-thread",
		// The size bounds the window, and with it the memory of the decoder.
		fmt.Sprintf("--stream-size=%d", len(raw)))
	cmd.Stdin = bytes.NewReader(raw)
	var frame, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &frame, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("zstd: %w: %s", err, stderr.Bytes())
	}
	return frame.Bytes(), nil
}
