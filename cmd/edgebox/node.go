package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/sys/unix"
)

// errNotRunning says that no node listens on this machine.
var errNotRunning = exitError{failed, "edgebox is not running on this machine"}

// errNoSuchRoute says that the node has no such function.
var errNoSuchRoute = exitError{failed, "the edgebox that runs on this machine is of another version, which does not know this command: restart it"}

// node speaks to the edgebox that runs on this machine.
type node struct{ http *http.Client }

func nodeAt(socket string) node {
	return node{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	}}}
}

// do sends a request and returns the body of a good answer. The caller closes it.
func (n node) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "edgebox", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := n.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, errNotRunning
	case errors.Is(err, fs.ErrPermission):
		return nil, exitError{failed, "only root may speak to edgebox: use sudo"}
	case err != nil:
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("ask edgebox: %w", err)
	}
	if resp.StatusCode >= 300 {
		defer func() { _ = resp.Body.Close() }()
		return nil, answerError(resp)
	}
	return resp.Body, nil
}

// get decodes a JSON answer into out.
func (n node) get(ctx context.Context, path string, out any) error {
	body, err := n.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of edgebox: %w", err)
	}
	return nil
}

func answerError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &answer) == nil && answer.Message != "" {
		return errors.New(answer.Message)
	}
	if resp.StatusCode == http.StatusNotFound {
		return errNoSuchRoute
	}
	return fmt.Errorf("edgebox answered %s", resp.Status)
}
