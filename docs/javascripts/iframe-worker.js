// Browsers refuse workers to pages that are opened from a file. Here the worker's script runs in a hidden frame instead,
// so that the search works there too.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = `<script src="${String(url).replaceAll('"', "%22")}"></script>`
      this.inner = new Promise(resolve => {
        frame.addEventListener("load", () => {
          const inner = frame.contentWindow
          inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          resolve(inner)
        })
      })
      document.body.append(frame)
    }

    postMessage(data) {
      this.inner.then(inner => inner.dispatchEvent(new inner.MessageEvent("message", { data })))
    }
  }
}
