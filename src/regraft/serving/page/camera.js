// A picture from the camera: in a dialog where the browser gives the camera to pages, else by the phone's own camera.

const dialog = document.getElementById("camera");
const video = document.getElementById("video");

/** Let the user take a picture; `onPicture` is called with each. */
export function setUpCamera(button, fallback, onPicture, onProblem) {
  let stream = null;
  button.addEventListener("click", async () => {
    if (!navigator.mediaDevices?.getUserMedia) {
      fallback.click();
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    } catch {
      onProblem("The camera cannot be used. Choose a picture instead.");
      return;
    }
    video.srcObject = stream;
    dialog.showModal();
  });
  document.getElementById("leave").addEventListener("click", () => dialog.close());
  document.getElementById("snap").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    // PNG, so that the server reads the very pixels that were seen.
    canvas.toBlob((blob) => blob && onPicture(blob), "image/png");
    dialog.close();
  });
  dialog.addEventListener("close", () => {
    for (const track of stream?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });
}
