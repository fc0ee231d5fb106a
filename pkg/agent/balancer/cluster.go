package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Discover returns a function for Config.Discover that follows the endpoints of the Service "kubernetes", where each
// API server enters itself and, when it has gone, is removed.
func Discover(client func() (kubernetes.Interface, error)) func(context.Context, func([]string)) error {
	return func(ctx context.Context, found func([]string)) error {
		c, err := client()
		if err != nil {
			return err
		}
		slices := informers.NewSharedInformerFactoryWithOptions(c, 0,
			informers.WithNamespace(metav1.NamespaceDefault),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName + "=kubernetes" }),
		).Discovery().V1().EndpointSlices().Informer()
		report := func() { found(addresses(slices.GetStore().List())) }
		reg, err := slices.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { report() },
			UpdateFunc: func(any, any) { report() },
		})
		if err != nil {
			return err
		}
		go slices.RunWithContext(ctx)
		cache.WaitFor(ctx, "", reg.HasSyncedChecker())
		<-ctx.Done()
		return ctx.Err()
	}
}

// addresses are host:port of the API servers in EndpointSlices, sorted.
func addresses(objects []any) []string {
	var out []string
	for _, o := range objects {
		slice, ok := o.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, port := range slice.Ports {
			if port.Port == nil {
				continue
			}
			for _, e := range slice.Endpoints {
				for _, a := range e.Addresses {
					out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Probe returns a function for Config.Probe that asks for /readyz. It keeps its connection from one probe to the next.
func Probe(tlsConfig func() (*tls.Config, error)) func(context.Context, string) (time.Time, error) {
	client := http.Client{Transport: &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conf, err := tlsConfig()
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{NetDialer: &dialer, Config: conf}).DialContext(ctx, network, address)
	}}}
	return func(ctx context.Context, address string) (time.Time, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/readyz", nil)
		if err != nil {
			return time.Time{}, err
		}
		res, err := client.Do(req)
		if err != nil {
			client.CloseIdleConnections()
			return time.Time{}, cause(err)
		}
		defer res.Body.Close()
		now, err := http.ParseTime(res.Header.Get("Date"))
		if res.StatusCode != http.StatusOK {
			return now, fmt.Errorf("it is not ready: %s", res.Status)
		}
		return now, err
	}
}

// cause is an error of an HTTP client without the URL, which the message has already.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
