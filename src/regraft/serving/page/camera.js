// Take a photo: in a dialog if the browser gives pages access to the camera, else with the phone's camera app.

const dialog = document.getElementById("camera");
const video = document.getElementById("video");

/** Let the user take photos; `onPhoto` is called with each. */
export function setUpCamera(button, fallback, onPhoto, onError) {
  let stream = null;
  button.addEventListener("click", async () => {
    if (!navigator.mediaDevices?.getUserMedia) {
      fallback.click();
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    } catch {
      onError("The camera is not available. Choose an image instead.");
      return;
    }
    video.srcObject = stream;
    dialog.showModal();
  });
  document.getElementById("close-camera").addEventListener("click", () => dialog.close());
  document.getElementById("capture-photo").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    // PNG, so that the server reads exactly the pixels that the user saw.
    canvas.toBlob((blob) => blob && onPhoto(blob), "image/png");
    dialog.close();
  });
  dialog.addEventListener("close", () => {
    for (const track of stream?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });
}
