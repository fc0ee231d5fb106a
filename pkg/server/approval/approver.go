// Package approval decides on the certificates that nodes ask for, and remembers which machine a node is.
//
// Upstream's own approver looks at the form of a request and at who may ask. That is not enough for a cluster whose join
// token lies on many machines: with it, whoever has the token could become any node, and any node could get a certificate
// for any address. Here the first machine that joins under a name owns it, for as long as the Node exists. The record of that
// is the Secret NAME.machine in kube-system; nothing else is kept, so that any number of servers may run the same approver.
//
// It decides on requests for the signers kubernetes.io/kube-apiserver-client-kubelet and kubernetes.io/kubelet-serving
// that come from nodes and from machines with a join token. All others wait for an administrator, as ever. It signs nothing:
// kube-controller-manager does.
package approval

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	informers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/edgebox/edgebox/pkg/component"
)

// Config is what the decisions depend on.
type Config struct {
	Client        func() (kubernetes.Interface, error) // as administrator; asked at each start
	Reserved      []string                             // names and addresses on the API server's certificate
	ClusterDomain string
	ClusterCIDRs  []netip.Prefix // of pods and of services: no node has an address in them
}

// Waits between attempts while the API does not take a decision.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 30 * time.Second
)

// task is what there is to do: a decision on the request of that name, or a look at whether the Node of that name is there
// now, for its record.
type task struct {
	name string
	bind bool
}

// Approver is the component.
type Approver struct {
	cfg    Config
	client kubernetes.Interface
	now    func() time.Time
}

// New returns the component.
func New(cfg Config) *Approver { return &Approver{cfg: cfg, now: time.Now} }

// Name implements component.Component.
func (a *Approver) Name() string { return "csr-approver" }

// Run decides on each request once. It is ready when it has seen those that are there.
func (a *Approver) Run(ctx context.Context, ready func()) (err error) {
	if a.client, err = a.cfg.Client(); err != nil {
		return fmt.Errorf("kubernetes client: %w", err)
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[task](retryMin, retryMax))
	informer := informers.NewCertificateSigningRequestInformer(a.client, 0, cache.Indexers{})
	reg, err := informer.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(o any) bool {
			csr, ok := o.(*certificates.CertificateSigningRequest)
			return ok && ours(csr)
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { queue.Add(task{name: o.(*certificates.CertificateSigningRequest).Name}) },
			UpdateFunc: func(_, o any) { queue.Add(task{name: o.(*certificates.CertificateSigningRequest).Name}) },
		},
	})
	if err != nil {
		return err
	}
	runCtx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { informer.RunWithContext(runCtx) })
	defer queue.ShutDown()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	var unbound []string
	err = component.Poll(ctx, "the records of machines", time.Second, func(ctx context.Context) (err error) {
		unbound, err = listUnbound(ctx, a.client)
		return err
	})
	if err != nil || !cache.WaitFor(ctx, "", reg.HasSyncedChecker()) {
		return nil
	}
	for _, name := range unbound {
		queue.Add(task{name, true})
	}
	ready()
	for {
		t, end := queue.Get()
		if end {
			return nil
		}
		// One after the other: a wave of joins is short, and nodes wait for the signature anyway.
		bind, after, err := a.do(ctx, t)
		switch {
		case err == nil:
			queue.Forget(t)
			if bind != "" {
				queue.AddAfter(task{bind, true}, after)
			}
		case ctx.Err() == nil:
			if queue.NumRequeues(t) == 0 && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				slog.Warn("cannot decide on a certificate yet, trying again", "name", t.name, "err", err)
			}
			queue.AddRateLimited(t)
		}
		queue.Done(t)
	}
}

// do returns the node whose record is to be bound later, if there is one.
func (a *Approver) do(ctx context.Context, t task) (bind string, after time.Duration, err error) {
	if !t.bind {
		bind, err = a.handle(ctx, t.name)
		return bind, bindMin, err
	}
	after, err = a.bind(ctx, t.name)
	if after > 0 {
		bind = t.name
	}
	return bind, after, err
}

// ours tells whether a request may need a decision of this package.
func ours(csr *certificates.CertificateSigningRequest) bool {
	signer := csr.Spec.SignerName
	return (signer == certificates.KubeAPIServerClientKubeletSignerName || signer == certificates.KubeletServingSignerName) && !decided(csr)
}

func decided(csr *certificates.CertificateSigningRequest) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type == certificates.CertificateApproved || c.Type == certificates.CertificateDenied {
			return true
		}
	}
	return false
}

// handle decides on the request of that name.
//
// What is known of the node is read before the request, and is written only if it has not changed since: of two machines
// that ask for one new name at a time, here or on two servers, one gets it; and what a later request has put on record is
// not undone for one that another server has decided on meanwhile.
//
// It returns the name of the node if that may have a record and does not exist yet.
func (a *Approver) handle(ctx context.Context, name string) (unbound string, err error) {
	requests := a.client.CertificatesV1().CertificateSigningRequests()
	csr, err := requests.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", ignoreNotFound(err)
	}
	if !ours(csr) {
		return "", nil
	}
	asked, refused := parse(csr)
	if asked.requester == stranger {
		return "", nil
	}
	v := verdict{reason: reasonForm, message: refused}
	if refused == "" {
		known, err := lookUp(ctx, a.client, asked.node)
		if err != nil {
			return "", err
		}
		if csr, err = requests.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return "", ignoreNotFound(err)
		}
		if decided(csr) {
			return "", nil
		}
		if v, err = a.judge(ctx, asked, known); err != nil {
			return "", err
		}
		if err := v.record.write(ctx, a.client); err != nil {
			return "", err
		}
		if v.approved && known.node == nil {
			unbound = asked.node
		}
	}
	return unbound, ignoreNotFound(a.conclude(ctx, csr, asked, v))
}

// conclude writes the verdict into the request.
func (a *Approver) conclude(ctx context.Context, csr *certificates.CertificateSigningRequest, asked request, v verdict) error {
	condition := certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateDenied, Status: corev1.ConditionTrue, Reason: v.reason, Message: v.message,
	}
	if v.approved {
		condition.Type = certificates.CertificateApproved
	}
	csr.Status.Conditions = append(csr.Status.Conditions, condition)
	if _, err := a.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return err
	}
	attrs := []any{"request", csr.Name, "signer", csr.Spec.SignerName, "from", csr.Spec.Username, "node", asked.node, "reason", v.message}
	if v.approved {
		slog.Info("certificate approved", attrs...)
	} else {
		slog.Warn("certificate denied", attrs...)
	}
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
