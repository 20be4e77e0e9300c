// The search runs in a worker, which a page opened from a folder may not start: there it runs in a frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = data => setTimeout(() => this.answer(data));
      inner.importScripts = (...urls) => Promise.all(urls.map(url => this.load(url)));
      this.ready = this.load(script);
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const element = this.frame.contentDocument.createElement("script");
        element.src = url;
        element.onload = resolve;
        element.onerror = reject;
        this.frame.contentDocument.body.append(element);
      });
    }

    answer(data) {
      const event = new MessageEvent("message", { data: structuredClone(data) });
      this.onmessage?.(event);
      this.dispatchEvent(event);
    }

    postMessage(data) {
      const inner = this.frame.contentWindow;
      const event = new inner.MessageEvent("message", { data: structuredClone(data) });
      this.ready.then(() => setTimeout(() => inner.dispatchEvent(event)));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
