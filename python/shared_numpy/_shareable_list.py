class ShareableList: pass
